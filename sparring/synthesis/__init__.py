"""New training tasks where the agent is weak, validated by acting."""
