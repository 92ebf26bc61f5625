"""Floor 5: the stateful metrics."""
