"""Any pretrained vision model, answering from only the visible part of an image.

    removal = layermask.LayerMasking(model)
    logits = removal(images, visible)  # (N, C, *S) float, (N or 1, 1, *S) bool, True = visible

Names are imported when first used, so that the command line answers before torch is loaded. Here are the ones
that most programs need; the rest is in the rooms: `layermask.removal`, `.explain`, `.metrics` and so on.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from layermask._lazy import attach

__version__ = "0.1.0"
_get, __dir__, __all__ = attach(__name__, __file__)
_OF_RULES = {"Masked", "core", "overriding", "rule"}


def __getattr__(name: str) -> Any:
    if name in _OF_RULES:
        import_module("layermask.rules")  # the table comes with its rules in it
    return _get(name)
