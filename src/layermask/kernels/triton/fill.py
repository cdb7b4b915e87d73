"""Neighbour padding on GPUs, in Triton: the two steps of padding/reference.py, without a wait for the device.

A ring is one launch: its cells read earlier rings only, which no program of that launch writes. Programs
whose cells are of other rings end at once, and only the cells that are read or written are touched.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from layermask.kernels.operands import three, whole
from layermask.kernels.signatures import KINDS

__all__ = ["KINDS", "fill_", "rings"]
TILE = 1024  # cells times channels of one program


def rings(visible: Tensor, is_padding: Tensor | None, reach: Sequence[int]) -> Tensor:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    visible, is_padding = whole(visible, is_padding)
    sources = visible if is_padding is None else visible & ~is_padding
    out = (~sources).to(torch.uint8).mul_(255)
    size = three(visible.shape[2:], 1)
    grid = (triton.cdiv(size[0] * size[1] * size[2], TILE), visible.shape[0])
    with _device(visible):
        for ring in range(1, max(reach) + 1 if out.numel() else 1):
            along = _along(reach, ring)
            _mark[grid](visible.view(torch.uint8), out, ring, *size, *along, BLOCK=TILE)
    return out


def fill_(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    """Fill `value` (N, C, *S), of a type in KINDS and of any strides without overlap, in place."""
    images, channels = value.shape[:2]
    size, steps = three(value.shape[2:], 1), three(value.stride()[2:], 0)
    number = size[0] * size[1] * size[2]
    block = _channels_at_once(value)
    grid = (triton.cdiv(number, TILE // block), triton.cdiv(channels, block), images)
    with _device(value):
        for ring in range(1, max(reach) + 1 if value.numel() else 1):
            _fill[grid](
                *(value, rings, ring, float(eps), 0 if rings.shape[0] == 1 else number, channels),
                *(*size, *value.stride()[:2], *steps, *_along(reach, ring)),
                CELLS=TILE // block,
                CHANNELS=block,
                WIDE=value.dtype is torch.float64,
            )


def _channels_at_once(value: Tensor) -> int:
    """As many as lie side by side in memory and a program can take; a few where cells do."""
    side_by_side = value.stride(1) == 1 and value.shape[1] > 1
    return min(128, triton.next_power_of_2(value.shape[1])) if side_by_side else 4


def _along(reach: Sequence[int], ring: int) -> tuple[int, ...]:
    """Per axis, whether this ring extends on it."""
    return tuple(int(r >= ring) for r in three(reach, 0))


def _device(x: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@triton.jit
def _mark(
    visible, rings, ring, depth, height, width,
    ALONG_Z: tl.constexpr, ALONG_Y: tl.constexpr, ALONG_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give `ring` to the hidden cells of one image that have no ring yet and a neighbour that has."""
    number = depth * height * width
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < number
    rings += tl.program_id(1).to(tl.int64) * number
    visible += tl.program_id(1).to(tl.int64) * number
    hidden = tl.load(visible + cell, mask=inside, other=1) == 0
    free = hidden & (tl.load(rings + cell, mask=inside, other=0) == 255)
    x, y, z = cell % width, cell // width % height, cell // (width * height)
    found = tl.zeros((BLOCK,), tl.int32)
    for dz in tl.static_range(-ALONG_Z, ALONG_Z + 1):
        for dy in tl.static_range(-ALONG_Y, ALONG_Y + 1):
            for dx in tl.static_range(-ALONG_X, ALONG_X + 1):
                ok = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
                ok = free & ok & (z + dz >= 0) & (z + dz < depth)
                near = tl.load(rings + cell + (dz * height + dy) * width + dx, mask=ok, other=255)
                found += (near < ring).to(tl.int32)
    tl.store(rings + cell, (found * 0 + ring).to(tl.uint8), mask=found > 0)


@triton.jit
def _fill(
    value, rings, ring, eps, map_step, channels, depth, height, width,
    step_n, step_c, step_z, step_y, step_x,
    ALONG_Z: tl.constexpr, ALONG_Y: tl.constexpr, ALONG_X: tl.constexpr,
    CELLS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Give the cells of `ring` the mean of their neighbours of earlier rings."""
    image = tl.program_id(2).to(tl.int64)
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    rings += image * map_step
    mine = tl.load(rings + cell, mask=cell < depth * height * width, other=255) == ring
    if tl.max(mine.to(tl.int32), axis=0) > 0:
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        some = (channel < channels)[None, :]
        x, y, z = cell % width, cell // width % height, cell // (width * height)
        at = z.to(tl.int64) * step_z + y.to(tl.int64) * step_y + x.to(tl.int64) * step_x
        at = value + image * step_n + at[:, None] + channel.to(tl.int64)[None, :] * step_c
        total = tl.zeros((CELLS, CHANNELS), tl.float64 if WIDE else tl.float32)
        known = tl.zeros((CELLS,), tl.int32)
        for dz in tl.static_range(-ALONG_Z, ALONG_Z + 1):
            for dy in tl.static_range(-ALONG_Y, ALONG_Y + 1):
                for dx in tl.static_range(-ALONG_X, ALONG_X + 1):
                    ok = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
                    ok = mine & ok & (z + dz >= 0) & (z + dz < depth)
                    near = tl.load(rings + cell + (dz * height + dy) * width + dx, mask=ok, other=255) < ring
                    known += near.to(tl.int32)
                    step = dz * step_z + dy * step_y + dx * step_x
                    total += tl.load(at + step, mask=near[:, None] & some, other=0).to(total.dtype)
        mean = total / (tl.maximum(known, 1).to(total.dtype) + eps)[:, None]
        tl.store(at, mean.to(value.dtype.element_ty), mask=mine[:, None] & some)
