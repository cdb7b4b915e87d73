"""Reading and writing by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layermask.core.mask import narrow
from layermask.core.masked import Masked, masked_in, settled
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule
from layermask.rules.shape import moved


@rule(Tensor.__getitem__)
def getitem(input: Any, index: Any) -> Any:
    """Slices of a grid with a step are phases of it, which space-to-depth layers lay side by side."""
    if any(masked_in(index)):
        raise TypeError("a Masked cannot be an index: which entries are read may be hidden.")
    shape = input.value.shape
    out = moved(input, input.value[index], lambda m: narrow(m.expand(shape)[index]))
    parts = index if isinstance(index, tuple) else (index,)
    out.strided_slice = any(isinstance(p, slice) and p.step not in (None, 1) for p in parts)
    return out


@rule(Tensor.__setitem__)
def setitem(input: Masked, index: Any, value: Any) -> None:
    """The target keeps its storage where it can; the entries written take the mask of what is written."""
    if any(masked_in(index)):
        raise TypeError("a Masked cannot be an index: which entries are written may be hidden.")
    # hidden content stays out of storage that something else may call visible
    new = settled(value) if isinstance(value, Masked) else value
    shown = value.visible if isinstance(value, Masked) else True
    visible = input.visible.expand(input.value.shape).clone()
    visible[index] = shown
    input.value[index] = new
    input.visible, input.frame = visible, None


def _by_axis(input: Masked, dim: int, read: Any) -> Masked:
    """Reads along one axis: masks that do not vary along it stay as they are."""
    return moved(input, read(input.value), lambda m: m if m.ndim == 0 or m.shape[dim] == 1 else read(m))


@rule(torch.index_select, Tensor.index_select)
def index_select(input: Masked, dim: int, index: Tensor) -> Masked:
    return _by_axis(input, dim, lambda t: t.index_select(dim, index))


@rule(torch.gather, Tensor.gather)
def gather(input: Masked, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Masked:
    value = input.value.gather(dim, index)
    return moved(input, value, lambda m: m.expand(input.value.shape).gather(dim, index))


@rule(torch.take_along_dim, Tensor.take_along_dim)
def take_along_dim(input: Any, indices: Tensor, dim: int | None = None) -> Masked:
    if not isinstance(input, Masked) or isinstance(indices, Masked):
        raise NoMaskRule("torch.take_along_dim", why="Its indices must be plain.")
    if dim is None:
        input, indices, dim = input.flatten(), indices.flatten(), 0
    value = input.value.take_along_dim(indices, dim)
    return moved(input, value, lambda m: m.expand(input.value.shape).take_along_dim(indices, dim))


@rule(torch.tril, Tensor.tril)
def tril(input: Masked, diagonal: int = 0) -> Masked:
    return Masked(input.value.tril(diagonal), input.visible)


@rule(torch.triu, Tensor.triu)
def triu(input: Masked, diagonal: int = 0) -> Masked:
    return Masked(input.value.triu(diagonal), input.visible)
