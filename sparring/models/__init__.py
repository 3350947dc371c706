"""A causal language model: finding, checking, loading, adapting and saving it, and facts about its kind."""
