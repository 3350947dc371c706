"""A model behind a server that speaks the Tinker API: token ids go in, ids and their log-probabilities come out."""
