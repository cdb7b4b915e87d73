"""Removal operators in other people's tools: one file per tool, none of which imports it."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
