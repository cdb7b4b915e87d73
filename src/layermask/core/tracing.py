"""Whether something has to see every operator."""

from __future__ import annotations

import torch
from torch import Tensor

from layermask._private_torch import is_tracing, modes_are_active, takes_forward_derivatives


def is_traced(value: Tensor) -> bool:
    """Something must see every operator on this value: see `anything_traces`; or it is of a subclass."""
    return type(value) not in (Tensor, torch.nn.Parameter) or anything_traces()


def anything_traces() -> bool:
    """Something must see every operator: a tracer, a mode, a transform, a forward derivative."""
    if torch.compiler.is_compiling() or is_tracing():
        return True
    return modes_are_active() or takes_forward_derivatives()
