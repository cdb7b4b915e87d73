"""Variants of layer masking that need no training: one dataclass, an axis of choices per field.

The paper's operator is `Variant()`. Rules that only experiments use live here, not in the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import LayerMasking, Masked
from layermask.core.masked import zero_hidden
from layermask.core.rule_table import RULES
from layermask.core.settings import FILLS, GROWTHS
from layermask.core.window import Window, count, grow, on_grid, window_sum
from layermask.padding.neighbor import neighbor
from layermask.removal.fills.neighbor import Neighbors
from layermask.removal.fills.pushpull import PushPull
from layermask.rules.convolve import conv_window
from layermask.rules.pool import pool_window
from layermask.rules.reduce import moments


@dataclass(frozen=True)
class Variant:
    """A choice per axis; each default is the paper's.

    Args:
        growth: the mask behind a window, a name in `MASKS`.
        fill: what convolutions read at hidden cells: a name in `FILLINGS` or in
            `layermask.core.settings.FILLS`.
        rings: how many rings of hidden cells are filled; None for as many as a kept window can read.
        join: the mask where two meet, as `LayerMasking` takes it.
        pool: what max pools read at hidden cells, a name in `POOLED`.
        head: what a global average pool averages, a name in `HEADS`.
        norm: how far batch norm leans on the image's own visible cells, times the hidden share.
        prior: how much of the answer to nothing at all is subtracted, times the hidden share.
    """

    growth: str = "any"
    fill: str = "neighbor"
    rings: int | None = None
    join: str = "intersection"
    pool: str = "nothing"
    head: str = "visible"
    norm: float = 0.0
    prior: float = 0.0

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the paper's."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @property
    def name(self) -> str:
        return ", ".join(f"{axis} {value}" for axis, value in self.changes.items()) or "paper"

    def acts_on(self, model: nn.Module) -> bool:
        """Whether the model has the layers that a change is about; for the paper's, True."""
        needs = {"pool": nn.MaxPool2d, "norm": nn.BatchNorm2d}
        kinds = [needs.get(axis, nn.Module) for axis in self.changes]
        return not kinds or any(isinstance(module, tuple(kinds)) for module in model.modules())


class Varied(nn.Module):
    """A removal operator like `LayerMasking`, by the choices of a `Variant`; for pictures (N, C, H, W)."""

    def __init__(self, model: nn.Module, variant: Variant) -> None:
        super().__init__()
        self.model, self.variant = model, variant
        self._empty: Tensor | None = None

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Return the model's output for images (N, C, H, W) and visible (N or 1, 1, H, W)."""
        out = self._masking(visible)(images, visible)
        if not self.variant.prior:
            return out
        hidden = 1 - visible.to(out.dtype).mean((2, 3))
        return out - self.variant.prior * hidden * self._answer_to_nothing(images)

    def _masking(self, visible: Tensor) -> LayerMasking:
        v = self.variant
        rules = {
            F.conv2d: partial(_convolution, v, visible),
            F.max_pool2d: partial(_max_pool, v, visible),
            F.adaptive_avg_pool2d: partial(_global_pool, v, visible),
            F.batch_norm: partial(_batch_norm, v, visible),
        }
        fill = v.fill if v.fill in FILLS else "neighbor"
        return LayerMasking(self.model, fill=fill, join=v.join, rules=rules)

    def _answer_to_nothing(self, images: Tensor) -> Tensor:
        if self._empty is None:
            nothing = torch.zeros_like(images[:1, :1], dtype=torch.bool)
            self._empty = self._masking(nothing)(torch.zeros_like(images[:1]), nothing)
        return cast(Tensor, self._empty)


# What becomes of the mask: function(x, window, pixels) -> (visible, padding), `pixels` the mask of the image.


def _grown(growth: str, x: Masked, window: Window, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    return grow(x, window, growth)


def _by_stride(strided: str, x: Masked, window: Window, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Unchanged at stride 1, grown where the window strides."""
    growth = "center" if max(window.stride) == 1 else strided
    return grow(x, window, growth)


def _by_block(least: float, x: Masked, window: Window, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Unchanged at stride 1; where it strides, by the visible share of the pixels that a cell stands for."""
    if max(window.stride) == 1:
        return grow(x, window, "center")
    visible, is_padding = grow(x, window, "any")
    share = F.adaptive_avg_pool2d(pixels.float(), (visible.shape[2], visible.shape[3]))
    wanted = (share > 0) if least == 0 else share >= least - 1e-6
    return visible & (wanted if is_padding is None else wanted | is_padding), is_padding


def _by_depth(
    early: str, late: str, x: Masked, window: Window, pixels: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One growth in maps finer than 1/12 of the image, another from there on."""
    fine = 12 * x.value.shape[-1] > pixels.shape[-1]
    return MASKS[early if fine else late](x, window, pixels)


MASKS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    **{name: partial(_grown, name) for name in GROWTHS},
    "keep-any": partial(_by_stride, "any"),
    "keep-half": partial(_by_stride, "half"),
    "block-any": partial(_by_block, 0.0),
    "block-half": partial(_by_block, 0.5),
    "center-then-any": partial(_by_depth, "center", "any"),
    "any-then-center": partial(_by_depth, "any", "center"),
    "keep-any-then-any": partial(_by_depth, "keep-any", "any"),
}


# What convolutions read at hidden cells: function(x, reach) -> (N, C, H, W), the same at visible cells.


def _sources(x: Masked) -> Tensor:
    """Visible cells that are no padding."""
    return x.visible if x.is_padding is None else x.visible & ~x.is_padding


def _only_hidden(paint: Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]) -> Callable:
    def fill(x: Masked, reach: tuple[int, ...]) -> Tensor:
        known = _sources(x).expand(-1, -1, *x.value.shape[2:])
        return torch.where(x.visible, x.value, paint(torch.where(known, x.value, 0.0), known, reach))

    return fill


@_only_hidden
def _visible_mean(value: Tensor, known: Tensor, reach: tuple[int, ...]) -> Tensor:
    return value.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)


@_only_hidden
def _push_pull(value: Tensor, known: Tensor, reach: tuple[int, ...]) -> Tensor:
    return PushPull().paint(value, known)


@_only_hidden
def _box(value: Tensor, known: Tensor, reach: tuple[int, ...]) -> Tensor:
    """The mean of all visible cells within reach, near or far."""
    box = _around(reach)
    return window_sum(value, box) / count(known, box).clamp(min=1)


@_only_hidden
def _all_neighbors(value: Tensor, known: Tensor, reach: tuple[int, ...]) -> Tensor:
    """Neighbour padding as far as there are hidden cells."""
    return Neighbors().paint(value, known)


def _scaled_neighbors(scale: float, x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Neighbour padding, drawn towards zero."""
    return torch.where(x.visible, x.value, scale * _neighbors(x, reach))


def _half_mean(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Neighbour padding, drawn halfway to the mean of what is visible."""
    return (_neighbors(x, reach) + _visible_mean(x, reach)) / 2


@_only_hidden
def _nearest(value: Tensor, known: Tensor, reach: tuple[int, ...]) -> Tensor:
    """A copy of the nearest visible cell, ring by ring, cells beside before cells across a corner."""
    for _ in range(max(reach)):
        near, seen = value, known
        for step in _STEPS:
            there = _moved(known, step) & ~seen
            near, seen = torch.where(there, _moved(value, step), near), seen | there
        value, known = near, seen
    return value


_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


def _moved(x: Tensor, step: tuple[int, int]) -> Tensor:
    """The map shifted by one cell, with zeros (False) coming in."""
    down, right = step
    padded = F.pad(x, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    height, width = x.shape[2:]
    return padded[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :height, :width]


def _own(part: float, x: Masked, reach: tuple[int, ...]) -> Tensor:
    """What hidden cells became by themselves, once the image's holes are filled; the rest from neighbours."""
    if _enters(x):
        return _neighbors(x, tuple(x.value.shape[2:]))
    mixed = part * x.value + (1 - part) * _neighbors(x, reach)
    return torch.where(x.visible | ~_reached(x, reach), x.value, mixed)


def _enters(x: Masked) -> bool:
    """Whether this is the first convolution of the run."""
    assert x.forward_pass is not None
    first = "entered" not in x.forward_pass.memo
    x.forward_pass.memo["entered"] = True
    return first


def _reached(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Cells within reach of a visible one."""
    return count(_sources(x), _around(reach)) > 0


def _around(reach: tuple[int, ...]) -> Window:
    return Window(tuple(2 * r + 1 for r in reach), (1,) * len(reach), reach, reach, (1,) * len(reach))


def _neighbors(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Neighbour padding with zeros further away, as fewer rings than a window reads leave some."""
    clean = Masked(zero_hidden(x), x.visible, is_padding=x.is_padding)
    clean.forward_pass = x.forward_pass
    return neighbor(clean, reach)


FILLINGS: dict[str, Callable[[Masked, tuple[int, ...]], Tensor]] = {
    "nearest": _nearest,
    "own": partial(_own, 1.0),
    "own+neighbor": partial(_own, 0.5),
    "own+3*neighbor": partial(_own, 0.25),
    "box": _box,
    "neighbor*0.75": partial(_scaled_neighbors, 0.75),
    "neighbor+mean": _half_mean,
    "pushpull": _push_pull,
    "mean": _visible_mean,
}

CARRIED = ("own", "own+neighbor", "own+3*neighbor")
"""Fills that read what hidden cells hold, so that max pools pass it on."""

POOLED: dict[str, Callable[[Masked, tuple[int, ...]], Tensor]] = {
    "nothing": lambda x, reach: torch.where(x.visible, x.value, -torch.inf),
    "neighbor": neighbor,
    "zero": lambda x, reach: zero_hidden(x),
}


def _weighted(radius: int, x: Masked, pixels: Tensor) -> Tensor:
    """The mean of visible cells, each weighing what share of the pixels around it is visible."""
    height, width = x.value.shape[2:]
    weights = F.adaptive_avg_pool2d(pixels.to(x.value.dtype), (height, width))
    if radius:
        weights = F.avg_pool2d(weights, 2 * radius + 1, 1, radius, count_include_pad=False)
    weights = torch.where(x.visible, weights, 0.0)
    total = weights.sum((2, 3), keepdim=True)
    bare = total <= 0  # visible by growth alone
    weights = torch.where(bare, x.visible.to(weights.dtype), weights)
    total = weights.sum((2, 3), keepdim=True)
    plain = x.value.mean((2, 3), keepdim=True)
    mean = (zero_hidden(x) * weights).sum((2, 3), keepdim=True) / total.clamp(min=1e-12)
    return torch.where(pixels.all((2, 3), keepdim=True), plain, mean)


HEADS: dict[str, Callable[[Masked, Tensor], Tensor]] = {
    "zero": lambda x, pixels: zero_hidden(x).mean((2, 3), keepdim=True),
    "filled": lambda x, pixels: _all_neighbors(x, ()).mean((2, 3), keepdim=True),
    "share": partial(_weighted, 0),
    "wide-share": partial(_weighted, 1),
}
"""What a global pool averages, but for "visible", the paper's h_m: all cells with hidden ones 0 or filled, or
visible cells by the share of their pixels (and their neighbours') that is visible."""


# The rules, each with the parameters of its torch function after the variant (and the mask of the image).


def _convolution(
    variant: Variant,
    pixels: Tensor,
    input: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Masked:
    x, geometry = on_grid(input, 2), (stride, padding, dilation, groups)
    window = conv_window(weight, stride, padding, dilation)
    if variant.fill in FILLS and variant.rings is None:
        out = RULES[F.conv2d](x, weight, bias, *geometry).value
    else:
        out = F.conv2d(_read(variant, x, window), weight, bias, *geometry)
    visible, is_padding = MASKS[variant.growth](x, window, pixels)
    return Masked(out, visible, is_padding=is_padding)


def _read(variant: Variant, x: Masked, window: Window) -> Tensor:
    if not any(window.reach):
        return x.value
    reach = window.reach if variant.rings is None else tuple(variant.rings * (r > 0) for r in window.reach)
    return FILLINGS.get(variant.fill, _neighbors)(x, reach)


def _max_pool(
    variant: Variant,
    pixels: Tensor,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Masked:
    x = on_grid(input, 2)
    window = pool_window(x, 2, kernel_size, stride, padding, dilation, ceil_mode)
    visible, is_padding = MASKS[variant.growth](x, window, pixels)
    carried = variant.fill in CARRIED
    read = x.value if carried else POOLED[variant.pool](x, window.reach)
    out = F.max_pool2d(read, kernel_size, stride, padding, dilation, ceil_mode)
    return Masked(out if carried else torch.where(visible, out, 0.0), visible, is_padding=is_padding)


def _global_pool(variant: Variant, pixels: Tensor, input: Any, output_size: Any) -> Masked:
    plain = RULES[F.adaptive_avg_pool2d](input, output_size)
    if variant.head == "visible" or plain.value.shape[2:] != (1, 1):
        return plain
    return Masked(HEADS[variant.head](on_grid(input, 2), pixels), plain.visible)


def _batch_norm(
    variant: Variant,
    pixels: Tensor,
    input: Masked,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Masked:
    """Batch norm whose statistics are mixed with those of the image's visible cells, by the hidden share.

    The mixture of moments of Schneider et al. 2020 (arXiv 2006.16971), for each image alone.
    """
    plain = RULES[F.batch_norm](input, mean, var, weight, bias, training, momentum, eps)
    if not variant.norm:
        return plain
    part = variant.norm * (1 - pixels.to(mean.dtype).mean((2, 3), keepdim=True))
    own_mean, own_var, _ = moments(input, (2, 3))
    mean, var, weight, bias = (each.view(1, -1, 1, 1) for each in (mean, var, weight, bias))
    mixed_mean, mixed_var = mean + part * (own_mean - mean), var + part * (own_var - var)
    out = (zero_hidden(input) - mixed_mean) * torch.rsqrt(mixed_var + eps) * weight + bias
    return Masked(torch.where(part == 0, plain.value, out), plain.visible, is_padding=plain.is_padding)


def _one_at_a_time() -> list[Variant]:
    """Every choice of every axis, the other axes as the paper has them."""
    choices: dict[str, tuple] = {
        "growth": tuple(MASKS),
        "pool": ("neighbor",),  # zero is nothing, behind a ReLU
        "join": ("union",),
        "head": tuple(HEADS),
        "fill": (*FILLINGS, *FILLS),
        "rings": (1,),
        "norm": (0.1, 0.3),
        "prior": (1.0,),
    }
    found = [Variant(**{axis: value}) for axis, values in choices.items() for value in values]
    return list(dict.fromkeys([Variant(), *found]))


def by_name(variants: list[Variant]) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants}


SINGLE = by_name(_one_at_a_time())
COMBINED = by_name(
    [
        Variant(growth="keep-any", pool="neighbor"),
        Variant(growth="keep-any", pool="neighbor", head="share"),
        Variant(growth="keep-any-then-any", pool="neighbor", head="share"),
        Variant(growth="keep-any", pool="neighbor", norm=0.1),
        Variant(growth="keep-any", fill="own+neighbor"),
    ]
)
"""What helped alone, together."""
VARIANTS = {**SINGLE, **COMBINED}
