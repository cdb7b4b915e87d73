"""Neighbour padding by fill.c, and hide.c: maps of rings, and writing at hidden cells in place."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .build import call, library

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The types that can be filled, as fill.c numbers them."""


def available() -> bool:
    return library() is not None


def rings(visible: Tensor, frame: Tensor | None, reach: Sequence[int]) -> Tensor:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    visible, frame = _whole(visible, frame)
    out = torch.empty(visible.shape, dtype=torch.uint8)
    images, frames = visible.shape[0], 0 if frame is None else frame.shape[0]
    call(
        _kernels().fill_rings,
        visible,
        frame,
        out,
        images,
        frames,
        _longs(visible.shape[2:], 1),
        _longs(reach, 0),
    )
    return out


def fill_(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    """Fill `value` (N, C, *S), of a type in KINDS and of any strides without overlap, in place."""
    if not value.numel():
        return
    maps, (images, channels) = rings.shape[0], value.shape[:2]
    geometry = (_longs(value.shape[2:], 1), _steps(value), _longs(reach, 0), ctypes.c_double(eps))
    call(_kernels().fill_values, value, KINDS[value.dtype], rings, maps, images, channels, *geometry)


def hide_(value: Tensor, visible: Tensor, number: float) -> None:
    """Write `number` where `visible` (N or 1, 1, *S) is False, in place; `value` as `fill_` takes it."""
    visible, stored = visible.contiguous(), torch.tensor([number], dtype=value.dtype)
    maps, (images, channels) = visible.shape[0], value.shape[:2]
    geometry = (_longs(value.shape[2:], 1), _steps(value), stored)
    call(_kernels().hide_values, value, value.itemsize, visible, maps, images, channels, *geometry)


def _kernels() -> ctypes.CDLL:
    found = library()
    assert found is not None, "the caller asks `available` first"
    return found


def _whole(visible: Tensor, frame: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if frame is not None and frame.shape[0] > visible.shape[0]:
        visible = visible.expand(frame.shape)
    return visible.contiguous(), frame if frame is None else frame.expand(-1, *visible.shape[1:]).contiguous()


def _three(sizes: Sequence[int], rest: int) -> tuple[int, ...]:
    return (rest,) * (3 - len(sizes)) + tuple(sizes)


def _longs(sizes: Sequence[int], rest: int) -> Any:
    return (ctypes.c_long * 3)(*_three(sizes, rest))


def _steps(value: Tensor) -> Any:
    return (ctypes.c_long * 5)(*value.stride()[:2], *_three(value.stride()[2:], 0))
