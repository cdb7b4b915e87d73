"""Explanations beside object masks."""
