"""The audit: how much the way of hiding parts of images disturbs a model, and which way to use with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.audit.conduct import Audit as Audit
    from layermask.audit.conduct import audit as audit
    from layermask.audit.verdict import Verdict as Verdict
    from layermask.audit.verdict import recommend as recommend

__all__ = ["Audit", "Verdict", "audit", "recommend"]

_HOME = {"Audit": "conduct", "Verdict": "verdict", "audit": "conduct", "recommend": "verdict"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask.audit' has no attribute {name!r}")
    return getattr(import_module(f"layermask.audit.{_HOME[name]}"), name)
