"""Learning from labels: losses, mining, schemes and the trainer behind `resight train` (survey §5.1)."""
