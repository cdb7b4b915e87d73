"""Answers to the shape of a mask alone."""
