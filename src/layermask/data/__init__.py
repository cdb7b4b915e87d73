"""Labelled pictures from folders: one type of sample, one table of layouts; pictures and masks from files."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
