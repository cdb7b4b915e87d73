"""Explainers: from a removal operator and a picture to one score per segment."""
