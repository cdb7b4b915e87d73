"""Sorting: hidden entries come last, whichever way the order runs, and stay hidden.

The places are plain indices, so a model that picks its best tokens picks visible ones first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..masked import Masked, rule
from .reduce import hidden_last
from .shape import moved


def _ordered(input: Masked, out: Any, dim: int) -> Any:
    """The (values, indices) of a torch function, the values with the mask of where each came from."""
    values, indices = out
    if input.value.ndim == 0:
        return type(out)((Masked(values, input.visible), indices))
    chosen = moved(
        input, input.value.gather(dim, indices), lambda m: m.expand(input.value.shape).gather(dim, indices)
    )
    return type(out)((chosen, indices))


@rule(torch.sort, Tensor.sort)
def sort(input: Masked, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Any:
    worst = -math.inf if descending else math.inf
    out = torch.sort(hidden_last(input, worst), dim=dim, descending=descending, stable=bool(stable))
    return _ordered(input, out, dim)


@rule(torch.argsort, Tensor.argsort)
def argsort(input: Masked, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    return input.sort(dim=dim, descending=descending, stable=stable)[1]


@rule(torch.topk, Tensor.topk)
def topk(input: Masked, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    out = torch.topk(hidden_last(input, -math.inf if largest else math.inf), k, dim, largest, sorted)
    return _ordered(input, out, dim)
