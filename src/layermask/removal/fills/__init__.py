"""Fills: `fill(images, visible) -> images`, what is painted where nothing is visible."""
