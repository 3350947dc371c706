"""Statistics of rewards, and what failures look like."""
