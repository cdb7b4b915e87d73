"""Interpolation: fill what the kernel can reach, resample, and see what any visible cell contributed to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import cached, intersection
from layermask.core.masked import Masked, everywhere, zero_hidden_pair, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.core.window import on_grid
from layermask.padding.neighbor import neighbor
from layermask.rules.convolve import zero_if_empty

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_NEAREST = ("nearest", "nearest-exact")
_SUPPORT = {"linear": 1, "bilinear": 1, "trilinear": 1, "area": 1, "bicubic": 2}


@rule(F.interpolate)
def interpolate(
    input: Shaped[Masked, "N C *S"],
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Shaped[Masked, "N C *T"]:
    input = on_grid(input, input.value.ndim - 2)
    options = (align_corners, recompute_scale_factor, antialias)
    value = (
        input.value
        if mode in _NEAREST
        else neighbor(input, _reach(input, size, scale_factor, mode, antialias))
    )
    out = F.interpolate(value, size, scale_factor, mode, *options)
    key = (str(size), str(scale_factor), mode, *options, tuple(out.shape[2:]))
    masks = (input.visible,) if input.is_padding is None else (input.visible, input.is_padding)
    visible, is_padding = cached(
        input.forward_pass,
        "interpolate",
        masks,
        key,
        lambda: _resampled(input, mode, options, (size, scale_factor)),
    )
    return zero_if_empty(input, Masked(out, visible, is_padding=is_padding))


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


def _resampled(x: Masked, mode: str, options: tuple, target: tuple) -> tuple[Tensor, Tensor | None]:
    """The mask and the padding resampled likewise."""
    if x.is_padding is None and all(n == 1 for n in x.visible.shape[2:]):
        return x.visible, None
    real, image = _real_and_image(x, torch.float32)

    def sample(mask: Tensor, mode: str) -> Tensor:
        return F.interpolate(mask, target[0], target[1], mode, *options)

    visible, is_padding = _read(sample, real, image, mode)
    return visible, None if x.is_padding is None else is_padding


def _real_and_image(x: Masked, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is visible and no padding, and what is no padding, as numbers: (N or 1, C or 1, *S)."""
    size = x.value.shape[2:]
    visible = x.visible.expand(*x.visible.shape[:2], *size)
    image = (
        torch.ones_like(visible)
        if x.is_padding is None
        else ~x.is_padding.expand(*x.is_padding.shape[:2], *size)
    )
    return (visible & image).to(dtype), image.to(dtype)


def _read(
    sample: Callable[[Tensor, str], Tensor], real: Tensor, image: Tensor, mode: str
) -> tuple[Tensor, Tensor]:
    """Which samples are visible, and which are padding: those that read padding alone.

    A bicubic kernel has negative weights. Its linear core decides, and the rest of it where that is padding.
    """
    core = "bilinear" if mode == "bicubic" else mode
    seen, inside = (sample(mask, core) > LEAST for mask in (real, image))
    if core != mode:
        seen_about, inside_about = (sample(mask, mode).abs() > LEAST for mask in (real, image))
        seen, inside = seen | (seen_about & ~inside), inside | inside_about
    return seen | ~inside, ~inside


LEAST = 1e-6  # the weight of what counts as read


def _sampled(x: Masked, grid: Tensor, mode: str, padding_mode: str, align_corners: bool | None) -> Masked:
    """Sampled at plain places: visible where anything visible was read, or padding alone."""
    x = on_grid(x, x.value.ndim - 2)
    reach = {"nearest": 0, "bilinear": 1, "bicubic": 3}[mode]
    value = neighbor(zero_hidden_pair(x), (reach,) * (x.value.ndim - 2))  # padding may lie between cells
    out = F.grid_sample(value, grid, mode, padding_mode, align_corners)

    def sample(mask: Tensor, mode: str) -> Tensor:
        return F.grid_sample(mask.expand(len(grid), *mask.shape[1:]), grid, mode, padding_mode, align_corners)

    visible, is_padding = _read(sample, *_real_and_image(x, grid.dtype), mode)
    framed = padding_mode == "zeros" or x.is_padding is not None
    return zero_if_empty(x, Masked(out, visible, is_padding=is_padding if framed else None))


@rule(F.grid_sample)
def grid_sample(
    input: Float[Any, "N C *S"],
    grid: Float[Any, " N *T D"],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Float[Masked, "N C *T"]:
    """A sample is visible if its place is, and what is read there."""
    places = zero_undetermined(grid, (-1,)) if isinstance(grid, Masked) else grid
    if isinstance(input, Masked):
        out = _sampled(input, places, mode, padding_mode, align_corners)
    else:
        value = F.grid_sample(input, places, mode, padding_mode, align_corners)
        out = Masked(value, everywhere(value))
    if not isinstance(grid, Masked):
        return out
    shown = grid.visible.all(-1, keepdim=True).movedim(-1, 1)
    is_padding = None if out.is_padding is None else out.is_padding & shown
    return Masked(out.value, intersection(grid.forward_pass, out.visible, shown), is_padding=is_padding)


@rule(F.affine_grid)
def affine_grid(
    theta: Float[Masked, "N D D+1"], size: Any, align_corners: bool | None = None
) -> Float[Masked, " N *S D"]:
    """The places of an image are visible if all of its transform is."""
    grid = F.affine_grid(zero_undetermined(theta, (-2, -1)), size, align_corners)
    shown = theta.visible.flatten(1).all(1)
    return Masked(grid, shown.reshape(-1, *[1] * (grid.ndim - 1)))
