"""Functions that torch composes of moves, concatenations and sums, composed here of their rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask._private_torch import ASSERT, called_for_lists
from layermask.core.masked import Masked
from layermask.core.rule_table import built_in as rule

if TYPE_CHECKING:
    from jaxtyping import Shaped


def _each(tensors: tuple) -> tuple:
    """Torch takes several tensors as arguments, or as one list."""
    return tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors


@rule(torch.broadcast_to, Tensor.broadcast_to)
def broadcast_to(input: Masked, *size: Any) -> Masked:
    return input.expand(*size)


@rule(torch.broadcast_tensors, called_for_lists("broadcast_tensors"))
def broadcast_tensors(*tensors: Any) -> tuple:
    tensors = _each(tensors)
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(t.expand(shape) for t in tensors)


@rule(torch.atleast_1d, called_for_lists("atleast_1d"))
def atleast_1d(*tensors: Any) -> Any:
    return _for_each(tensors, lambda t: t if t.ndim else t.reshape(1))


@rule(torch.atleast_2d, called_for_lists("atleast_2d"))
def atleast_2d(*tensors: Any) -> Any:
    return _for_each(tensors, lambda t: t if t.ndim > 1 else t.reshape(1, -1))


@rule(torch.atleast_3d, called_for_lists("atleast_3d"))
def atleast_3d(*tensors: Any) -> Any:
    return _for_each(tensors, lambda t: t if t.ndim > 2 else atleast_2d(t)[..., None])


def _for_each(tensors: tuple, change: Callable[[Any], Any]) -> Any:
    out = tuple(map(change, _each(tensors)))
    return out if len(tensors) != 1 or isinstance(tensors[0], (tuple, list)) else out[0]


@rule(torch.vstack, torch.row_stack)
def vstack(tensors: Sequence[Any]) -> Any:
    return torch.cat(atleast_2d(tensors), 0)


@rule(torch.hstack)
def hstack(tensors: Sequence[Any]) -> Any:
    rows = list(atleast_1d(tensors))
    return torch.cat(rows, 0 if rows[0].ndim == 1 else 1)


@rule(torch.dstack)
def dstack(tensors: Sequence[Any]) -> Any:
    return torch.cat(atleast_3d(tensors), 2)


@rule(torch.column_stack)
def column_stack(tensors: Sequence[Any]) -> Any:
    return torch.cat([t if t.ndim > 1 else t.reshape(-1, 1) for t in tensors], 1)


@rule(torch.meshgrid, called_for_lists("meshgrid"))
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple:
    tensors = _each(tensors)
    axes = [t.reshape([-1 if i == d else 1 for i in range(len(tensors))]) for d, t in enumerate(tensors)]
    grids = broadcast_tensors(*axes)
    swap = indexing == "xy" and len(tensors) > 1
    return tuple(grid.transpose(0, 1) if swap else grid for grid in grids)


@rule(torch.trapezoid, torch.trapz)
def trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    """Of the intervals of which both ends are visible."""
    return _intervals(y, x, dx, dim).sum(dim)


@rule(torch.cumulative_trapezoid)
def cumulative_trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    return _intervals(y, x, dx, dim).cumsum(dim)


def _intervals(y: Any, x: Any, dx: float, dim: int) -> Any:
    n = y.shape[dim]
    heights = (y.narrow(dim, 0, n - 1) + y.narrow(dim, 1, n - 1)) / 2
    if x is None:
        return heights * dx
    x = x if x.ndim == y.ndim else x.reshape([-1 if d == dim % y.ndim else 1 for d in range(y.ndim)])
    return heights * x.diff(dim=dim)


@rule(torch.diff, Tensor.diff)
def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    if n == 0:
        return input
    x = torch.cat([t for t in (prepend, input, append) if t is not None], dim)
    for _ in range(n):
        length = max(x.shape[dim] - 1, 0)
        ahead, behind = x.narrow(dim, x.shape[dim] - length, length), x.narrow(dim, 0, length)
        x = ahead ^ behind if x.dtype is torch.bool else ahead - behind
    return x


@rule(ASSERT)
def check(condition: Any, message: str) -> None:
    """Torch's own, of what is visible."""
    ASSERT(bool((condition.value | ~condition.visible).all()), message)


@rule(torch.linalg.diagonal)
def linalg_diagonal(
    A: Shaped[Masked, "*S"], *, offset: int = 0, dim1: int = -2, dim2: int = -1
) -> Shaped[Masked, "*B D"]:
    return A.diagonal(offset, dim1, dim2)
