"""Losses, objectives, advantages, and the trainer that takes them to an engine. Owns no weights."""
