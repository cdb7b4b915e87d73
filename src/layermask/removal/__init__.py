"""Removal operators: `removal(images, visible) -> output`."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
