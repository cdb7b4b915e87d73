"""Metrics: what removal operators and attributions are worth, in numbers. `METRICS` lists them."""

from layermask._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
