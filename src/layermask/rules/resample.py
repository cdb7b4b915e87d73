"""Interpolation: fill what the kernel can reach, resample, and see what any visible cell contributed to."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fill import neighbor
from ..masked import Masked, NoMaskRule
from ..masked import built_in as rule
from ..visibility import derive
from ..window import on_grid

_NEAREST = ("nearest", "nearest-exact")
_SUPPORT = {"linear": 1, "bilinear": 1, "trilinear": 1, "area": 1, "bicubic": 2}


@rule(F.interpolate)
def interpolate(
    input: Masked,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Masked:
    input = on_grid(input, input.value.ndim - 2)
    options = (align_corners, recompute_scale_factor, antialias)
    value = (
        input.value
        if mode in _NEAREST
        else neighbor(input, _reach(input, size, scale_factor, mode, antialias))
    )
    out = F.interpolate(value, size, scale_factor, mode, *options)
    key = (str(size), str(scale_factor), mode, *options, tuple(out.shape[2:]))
    visible = derive(
        input.run,
        "interpolate",
        (input.visible,),
        key,
        lambda: _resampled(input, out, mode, options, (size, scale_factor)),
    )
    return Masked(out, visible)


def _reach(x: Masked, size: Any, scale_factor: Any, mode: str, antialias: bool) -> tuple[int, ...]:
    """Cells between two that one output cell can read, per axis."""
    n = x.value.ndim - 2
    sizes = size if isinstance(size, (tuple, list)) else [size] * n
    scales = scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor] * n
    reach = []
    for length, wanted, scale in zip(x.value.shape[2:], sizes, scales, strict=True):
        shrink = length / wanted if wanted is not None else 1 / scale
        wide = max(shrink, 1.0) if antialias or mode == "area" else 1.0
        reach.append(math.ceil(2 * _SUPPORT[mode] * wide) - (1 if wide == 1.0 else 0))
    return tuple(reach)


def _resampled(x: Masked, out: Tensor, mode: str, options: tuple, target: tuple) -> Tensor:
    """The mask resampled likewise; a bicubic kernel has negative weights, so its linear core decides."""
    if all(n == 1 for n in x.visible.shape[2:]):
        return x.visible
    full = x.visible.expand(*x.visible.shape[:2], *x.value.shape[2:]).to(torch.float32)
    seen = F.interpolate(full, target[0], target[1], "bilinear" if mode == "bicubic" else mode, *options)
    return seen > (0.5 if mode in _NEAREST else 1e-6)


@rule(F.grid_sample)
def grid_sample(
    input: Any,
    grid: Any,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Masked:
    """Visible where the sample read anything visible, or lies outside; the places themselves are plain."""
    if isinstance(grid, Masked):
        raise NoMaskRule("torch.nn.functional.grid_sample", why="Its grid must be plain.")
    input = on_grid(input, input.value.ndim - 2)
    reach = {"nearest": 0, "bilinear": 1, "bicubic": 3}[mode]
    value = neighbor(input, (reach,) * (input.value.ndim - 2)) if reach else input.value
    out = F.grid_sample(value, grid, mode, padding_mode, align_corners)
    full = input.visible.expand(*input.visible.shape[:2], *input.value.shape[2:]).to(grid.dtype)
    options = ("bilinear" if mode == "bicubic" else mode, padding_mode, align_corners)
    seen, inside = (
        F.grid_sample(mask.expand(len(grid), -1, *mask.shape[2:]), grid, *options)
        for mask in (full, torch.ones_like(full[:, :1]))
    )
    return Masked(out, (seen > 1e-6) | (inside <= 1e-6))
