"""What a folder of photos without labels teaches: relations mined of them, for the losses of labels (survey §5.2)."""
