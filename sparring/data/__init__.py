"""Turns to token ids and masks, trajectories to preference pairs, pairs to batches."""
