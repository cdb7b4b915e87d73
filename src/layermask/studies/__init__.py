"""Experiments over many pictures: resumable, one row per picture and setting."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
