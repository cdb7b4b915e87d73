"""Segmenters: `segmenter(image) -> labels (H, W)`."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
