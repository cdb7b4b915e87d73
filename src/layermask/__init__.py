"""Any pretrained vision model, answering from only the visible part of an image.

    removal = layermask.LayerMasking(model)
    logits = removal(images, visible)  # (N, C, *S) float, (N or 1, 1, *S) bool, True = visible

Names are imported when first used, so that the command line answers before torch is loaded. Here are the ones
that most programs need; the rest is in the rooms: `layermask.removal`, `.explain`, `.metrics` and so on.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any
from warnings import warn

from layermask._lazy import attach, room_of

__version__ = "0.1.0"
_get, __dir__, __all__ = attach(__name__, __file__)
_OF_RULES = {"Masked", "RULES", "core", "overriding", "rule"}
_RENAMED = {"LeaveOneOut": "FeatureAblation", "PRESETS": "SEGMENTER_PRESETS", "Removal": "RemovalEntry"}
_STATIC = ("errors", "zoo", "core")  # rooms that list their names in `__all__`, not in a stub


def __getattr__(name: str) -> Any:
    if name in _OF_RULES:
        import_module("layermask.rules")  # the table comes with its rules in it
    return _get(name) if name in __all__ else _moved(name)


def _moved(name: str) -> Any:
    """What stood here until the names went to their rooms; such names end with the first release."""
    new = _RENAMED.get(name, name)
    static = (f"{__name__}.{room}" for room in _STATIC if not new.startswith("_"))
    home = room_of(new, __name__, __file__) or next(
        (r for r in static if new in import_module(r).__all__), ""
    )
    if not home:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn(f"{__name__}.{name} is {home}.{new} now", FutureWarning, stacklevel=3)
    return getattr(import_module(home), new)
