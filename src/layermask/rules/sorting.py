"""Sorting: hidden entries come last, whichever way the order runs, and stay hidden.

The places of tokens are plain indices, so a model that picks its best tokens picks visible ones first. Those
of channels are masked as the cells are, of which each has its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layermask.core.mask import varies
from layermask.core.masked import Masked
from layermask.core.rule_table import built_in as rule
from layermask.rules.indexing import gather
from layermask.rules.reduce import axes, everything, hidden_last, placed


def _ordered(input: Masked, out: Any, dim: int) -> Any:
    """The (values, indices) of a torch function, the values with the mask of where each came from."""
    values, indices = out
    if input.value.ndim == 0:
        return type(out)((Masked(values, input.visible), indices))
    return type(out)((gather(input, dim, indices), placed(input, indices, (dim % input.value.ndim,), True)))


@rule(torch.sort, Tensor.sort)
def sort(input: Masked, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Any:
    return _ordered(input, _sorted(input, dim, descending, bool(stable)), dim)


def _sorted(x: Masked, dim: int, descending: bool, stable: bool) -> Any:
    """The (values, indices) with hidden entries last."""
    value = hidden_last(x, -math.inf if descending else math.inf, axes(x, dim))
    out = torch.sort(value, dim=dim, descending=descending, stable=stable)
    if value.is_floating_point() or not varies(x.visible, (dim,)):
        return out
    # no integer is beyond all others: those that are visible go before the hidden ones that are equal to them
    indices = torch.argsort(value, dim=dim, descending=descending, stable=True)
    hidden = (~x.visible.expand(value.shape)).gather(dim, indices).to(torch.uint8)
    places = indices.gather(dim, hidden.argsort(dim=dim, stable=True))
    places = torch.where(everything(x, (dim % value.ndim,), True), out.indices, places)
    return type(out)((value.gather(dim, places), places))


@rule(torch.argsort, Tensor.argsort)
def argsort(input: Masked, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return input.sort(dim=dim, descending=descending, stable=stable)[1]


@rule(torch.topk, Tensor.topk)
def topk(input: Masked, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    value = hidden_last(input, -math.inf if largest else math.inf, axes(input, dim))
    out = torch.topk(value, k, dim, largest, sorted)
    if not input.value.is_floating_point() and varies(input.visible, (dim,)):
        _, places = _sorted(input, dim, largest, True)
        whole = everything(input, (dim % input.value.ndim,), True)
        places = torch.where(whole, out.indices, places.narrow(dim, 0, k))
        out = type(out)((input.value.gather(dim, places), places))
    return _ordered(input, out, dim)
