"""Neighbour padding by fill.c, and hide.c: maps of rings, and writing at hidden cells in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layermask.kernels.compile import Kernels
from layermask.kernels.loader import library
from layermask.kernels.signatures import KINDS

__all__ = ["KINDS", "available", "fill_", "hide_", "rings"]


def available() -> bool:
    return library() is not None


def rings(visible: Tensor, frame: Tensor | None, reach: Sequence[int]) -> Tensor:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    visible, frame = _whole(visible, frame)
    out = torch.empty(visible.shape, dtype=torch.uint8)
    around = None if frame is None else _cells(frame)
    _kernels().fill_rings(_cells(visible), around, _cells(out), *_three(reach))
    return out


def fill_(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    """Fill `value` (N, C, *S), of a type in KINDS and of any strides without overlap, in place."""
    _kernels().fill_values(_cells(value), _cells(rings), *_three(reach), eps)


def hide_(value: Tensor, visible: Tensor, number: float) -> None:
    """Write `number` where `visible` (N or 1, 1, *S) is False, in place; `value` as `fill_` takes it."""
    _kernels().hide_values(_cells(value), _cells(visible.contiguous()), number)


def _kernels() -> Kernels:
    found = library()
    assert found is not None, "the caller asks `available` first"
    return found


def _whole(visible: Tensor, frame: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if frame is not None and frame.shape[0] > visible.shape[0]:
        visible = visible.expand(frame.shape)
    return visible.contiguous(), frame if frame is None else frame.expand(-1, *visible.shape[1:]).contiguous()


def _cells(x: Tensor) -> Tensor:
    """With three spatial axes, as kernels take it."""
    while x.ndim < 5:
        x = x.unsqueeze(2)
    return x


def _three(sizes: Sequence[int], rest: int = 0) -> tuple[int, ...]:
    return (rest,) * (3 - len(sizes)) + tuple(sizes)
