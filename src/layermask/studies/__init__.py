"""Experiments over many pictures: resumable, one row per picture and setting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.studies.lime.study import LimeStudy as LimeStudy
    from layermask.studies.linearity.study import LinearityStudy as LinearityStudy
    from layermask.studies.operators.study import OperatorStudy as OperatorStudy
    from layermask.studies.registry import EXPERIMENTS as EXPERIMENTS
    from layermask.studies.runner import Progress as Progress
    from layermask.studies.runner import run as run
    from layermask.studies.segments.study import SegmentStudy as SegmentStudy
    from layermask.studies.shape_bias.study import ShapeBiasStudy as ShapeBiasStudy
    from layermask.studies.store import Store as Store
    from layermask.studies.store import read_results as read_results

__all__ = [
    "EXPERIMENTS",
    "LimeStudy",
    "LinearityStudy",
    "OperatorStudy",
    "Progress",
    "SegmentStudy",
    "ShapeBiasStudy",
    "Store",
    "read_results",
    "run",
]

_HOME = {
    "EXPERIMENTS": "registry",
    "LimeStudy": "lime.study",
    "ShapeBiasStudy": "shape_bias.study",
    "OperatorStudy": "operators.study",
    "LinearityStudy": "linearity.study",
    "Progress": "runner",
    "SegmentStudy": "segments.study",
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
