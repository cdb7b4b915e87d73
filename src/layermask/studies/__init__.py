"""Experiments over many pictures: resumable, one row per picture and setting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.studies.lime.study import LimeQuality as LimeQuality
    from layermask.studies.linearity.study import PatchSums as PatchSums
    from layermask.studies.operators.study import OperatorTrust as OperatorTrust
    from layermask.studies.registry import EXPERIMENTS as EXPERIMENTS
    from layermask.studies.runner import Progress as Progress
    from layermask.studies.runner import run as run
    from layermask.studies.segments.study import SegmentRemoval as SegmentRemoval
    from layermask.studies.shape_bias.study import MaskShape as MaskShape
    from layermask.studies.store import Store as Store
    from layermask.studies.store import read_results as read_results

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
    "EXPERIMENTS": "registry",
    "LimeQuality": "lime.study",
    "MaskShape": "shape_bias.study",
    "OperatorTrust": "operators.study",
    "PatchSums": "linearity.study",
    "Progress": "runner",
    "SegmentRemoval": "segments.study",
    "Store": "store",
    "read_results": "store",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask.studies' has no attribute {name!r}")
    return getattr(import_module(f"layermask.studies.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
