"""Neighbour padding by fill.c, and hide.c: maps of rings, and writing at hidden cells in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.kernels.compile import Kernels
from layermask.kernels.loader import library
from layermask.kernels.operands import three, whole
from layermask.kernels.signatures import KINDS

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped, UInt8

__all__ = ["KINDS", "available", "fill_", "hide_", "rings"]


def available() -> bool:
    return library() is not None


def rings(
    visible: Bool[Tensor, "#N 1 *S"], is_padding: Bool[Tensor, "#N 1 *S"] | None, reach: Sequence[int]
) -> UInt8[Tensor, "N 1 *S"]:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    visible, is_padding = whole(visible, is_padding)
    out = torch.empty(visible.shape, dtype=torch.uint8)
    around = None if is_padding is None else _cells(is_padding)
    _kernels().fill_rings(_cells(visible), around, _cells(out), *three(reach))
    return out


def fill_(
    value: Shaped[Tensor, "N C *S"], rings: UInt8[Tensor, "#N 1 *S"], reach: Sequence[int], eps: float
) -> None:
    """Fill `value` (N, C, *S), of a type in KINDS and of any strides without overlap, in place."""
    _kernels().fill_values(_cells(value), _cells(rings), *three(reach), eps)


def hide_(value: Shaped[Tensor, "N C *S"], visible: Bool[Tensor, "#N 1 *S"], number: float) -> None:
    """Write `number` where `visible` (N or 1, 1, *S) is False, in place; `value` as `fill_` takes it."""
    _kernels().hide_values(_cells(value), _cells(visible.contiguous()), number)


def _kernels() -> Kernels:
    found = library()
    assert found is not None, "the caller asks `available` first"
    return found


def _cells(x: Tensor) -> Tensor:
    """With three spatial axes, as kernels take it."""
    while x.ndim < 5:
        x = x.unsqueeze(2)
    return x
