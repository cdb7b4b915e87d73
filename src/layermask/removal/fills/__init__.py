"""What is painted over hidden pixels: `fill(images, visible) -> images`. protocol.py says what a fill is."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
