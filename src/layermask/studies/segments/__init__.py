"""Answers while more and more segments are hidden."""
