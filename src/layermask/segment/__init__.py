"""Segmenters: an image -> a map of labels."""
