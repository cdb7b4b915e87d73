"""Answers to patches beside the answer to the whole."""
