"""A model behind vLLM servers: token ids go in, sampled ids and their log-probabilities come out."""
