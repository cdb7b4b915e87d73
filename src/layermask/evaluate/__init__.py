"""Experiments over many pictures: resumable, one row per picture and setting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.evaluate.lime import LimeQuality as LimeQuality
    from layermask.evaluate.linearity import PatchSums as PatchSums
    from layermask.evaluate.operators import OperatorTrust as OperatorTrust
    from layermask.evaluate.runner import Progress as Progress
    from layermask.evaluate.runner import run as run
    from layermask.evaluate.segments import SegmentRemoval as SegmentRemoval
    from layermask.evaluate.shape import MaskShape as MaskShape
    from layermask.evaluate.store import Store as Store
    from layermask.evaluate.store import read_results as read_results
    from layermask.evaluate.table import EXPERIMENTS as EXPERIMENTS

__all__ = [
    "EXPERIMENTS",
    "LimeQuality",
    "MaskShape",
    "OperatorTrust",
    "PatchSums",
    "Progress",
    "SegmentRemoval",
    "Store",
    "read_results",
    "run",
]

_HOME = {
    "EXPERIMENTS": "table",
    "LimeQuality": "lime",
    "MaskShape": "shape",
    "OperatorTrust": "operators",
    "PatchSums": "linearity",
    "Progress": "runner",
    "SegmentRemoval": "segments",
    "Store": "store",
    "read_results": "store",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"layermask.evaluate.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
