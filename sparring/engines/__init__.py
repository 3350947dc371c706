"""Who holds live weights and computes with them: log-probabilities, gradients, optimizer steps, saved states."""
