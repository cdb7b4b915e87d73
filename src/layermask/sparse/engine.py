"""Which engine runs an op: sparse rows, or the dense map."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layermask.core.dispatch import rule_for
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings
from layermask.core.tracing import anything_traces, is_traced
from layermask.errors import NoRows
from layermask.sparse.memory import Memory
from layermask.sparse.ops import compiled
from layermask.sparse.rules.table import SPARSE_FORMS
from layermask.sparse.weights import PreparedWeights

ENGINES = ("auto", "dense", "sparse")
"""How masked models run: on whole maps ("dense"), on rows of visible cells where there is a form for it
("sparse"), or sparse wherever that is the faster by our measurements ("auto")."""


class SparseEngine:
    """The sparse engine of one model: tried on every op, it declines what it has no form for."""

    def __init__(self, wherever: bool) -> None:
        self.wherever = wherever  # and not only where compiled kernels do the work
        self.prepared = PreparedWeights()
        self.memory = Memory()

    def __reduce__(self) -> tuple:  # copies prepare their own
        return SparseEngine, (self.wherever,)

    def __call__(self, forward_pass: ForwardPass, function: Callable, args: tuple, kwargs: dict) -> Any:
        body, stands_for = SPARSE_FORMS.get(function, (None, None))
        if body is None or rule_for(forward_pass, function) is not stands_for or _is_changed():
            return NotImplemented
        forward_pass.function = function
        try:
            return body(*args, **kwargs)
        except NoRows:
            pass
        except TypeError:
            if _takes(body, args, kwargs):
                raise
        return NotImplemented

    def begin_pass(self) -> SparseEngine:
        self.prepared.begin_pass()
        return self

    def takes(self, value: Tensor) -> bool:
        """Return whether this map may run on rows: not while it is traced, transformed or differentiated."""
        if is_traced(value) or (torch.is_grad_enabled() and value.requires_grad):
            return False
        return value.is_floating_point() and (self.wherever or compiled(value) is not None)


def _is_changed() -> bool:
    """Whether something changes or sees all operators, as autocast does. Models begin that anywhere."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") or anything_traces()


def _takes(body: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether a sparse form knows these arguments: torch takes some under other names as well."""
    try:
        inspect.signature(body).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


STEM_CONVOLUTIONS = 4
"""A model of no more convolutions than these is no convolutional network: rows would be laid out again at
once."""


def _gains(model: nn.Module) -> bool:
    """Whether rows are worth it: the model has many convolutions, or attends."""
    modules = list(model.modules())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    return convolutions > STEM_CONVOLUTIONS or any("Attention" in type(module).__name__ for module in modules)


def sparse_engine_for(engine: str, settings: Settings, model: nn.Module) -> SparseEngine | None:
    """The sparse engine for a model, or None where the dense one is to do everything.

    Raises:
        ValueError: "sparse" was asked for with settings that only the dense engine knows.
    """
    ours = Settings(growth=settings.growth, pool=settings.pool, until=settings.until)
    if engine == "dense" or (engine == "auto" and (settings != ours or not _gains(model))):
        return None
    if settings != ours:
        raise ValueError(
            f'engine="sparse" knows fill="neighbor", join="intersection" and no compat, not {settings}: '
            'use engine="auto" or "dense".'
        )
    return SparseEngine(wherever=engine == "sparse")
