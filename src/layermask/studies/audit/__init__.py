"""The audit: how much the way of hiding parts of images disturbs a model, and which way to use with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.studies.audit.study import Audit as Audit
    from layermask.studies.audit.study import audit as audit
    from layermask.studies.audit.verdict import Verdict as Verdict
    from layermask.studies.audit.verdict import recommend as recommend

__all__ = ["Audit", "Verdict", "audit", "recommend"]

_HOME = {"Audit": "study", "Verdict": "verdict", "audit": "study", "recommend": "verdict"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask.studies.audit' has no attribute {name!r}")
    return getattr(import_module(f"layermask.studies.audit.{_HOME[name]}"), name)
