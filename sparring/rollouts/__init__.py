"""Envs and policies to trajectories."""
