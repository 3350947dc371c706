"""A recipe to a finished run folder."""
