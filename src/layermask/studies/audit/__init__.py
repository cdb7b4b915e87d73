"""The audit: how much the way of hiding parts of images disturbs a model, and which way to use with it."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
