"""When a rule may write into a value, and writing a number at its hidden cells."""

from __future__ import annotations

import torch
from torch import Tensor

from layermask._private_torch import is_tracing, modes_are_active, takes_forward_derivatives
from layermask.core.masked import Masked
from layermask.padding import cpu as native


def is_ours(x: Masked) -> bool:
    """Nothing else holds the value, autograd included, and no two entries share a place.

    A pair that belongs to no run comes from outside, where its value is held too.
    """
    if x.run is None or x.shared or torch.is_grad_enabled():
        return False
    return all(step or n == 1 for n, step in zip(x.value.shape, x.value.stride(), strict=True))


def is_watched(value: Tensor) -> bool:
    """Something must see every operator on this value: see `is_traced`; or it is of a subclass."""
    return type(value) not in (Tensor, torch.nn.Parameter) or is_traced()


def is_traced() -> bool:
    """Something must see every operator: a tracer, a mode, a transform, a forward derivative."""
    if torch.compiler.is_compiling() or is_tracing():
        return True
    return modes_are_active() or takes_forward_derivatives()


def hide_(value: Tensor, visible: Tensor, number: float) -> Tensor:
    """Write `number` where `visible` (N or 1, C or 1, *S) is False, in place; `value` is (N, C, *S)."""
    spatial = visible.shape[1] == 1 and visible.shape[2:] == value.shape[2:]
    if (
        spatial
        and value.is_cpu
        and value.dtype in native.KINDS
        and not is_watched(value)
        and native.available()
    ):
        native.hide_(value, visible, number)
        return value
    return value.masked_fill_(~visible, number)
