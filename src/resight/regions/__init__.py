"""Regions of an image worth a look of their own, by their content, and the patches cut from them (survey §4.1.1)."""
