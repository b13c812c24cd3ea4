"""Which photos make a batch, and which pairs and triplets of them a loss sees (survey §5.1)."""
