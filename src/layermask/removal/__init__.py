"""Removal operators: `operator(images, visible) -> what the model answers`."""
