"""Operators of torchvision: boxes cut out of maps, convolutions that move their cells, the choice of boxes.

They are known by name, so torchvision need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.core.masked import Masked, everywhere, plain_of, zero_hidden, zero_hidden_pair
from layermask.core.rule_table import operator
from layermask.core.window import on_grid
from layermask.padding.neighbor import neighbor
from layermask.rules.convolve import conv_window
from layermask.rules.resample import LEAST

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped


def _shown(x: Any, ndim: int) -> Tensor | None:
    """Whether all of a row is visible, (rows, 1, ...); None if it is plain."""
    return x.visible.flatten(1).all(1).reshape(-1, *[1] * (ndim - 1)) if isinstance(x, Masked) else None


def _pictures(x: Masked, channels: bool) -> tuple[Tensor, Tensor]:
    """What is visible and no padding, and what is no padding, as maps of one channel or of all."""
    width = x.value.shape[1] if channels or x.visible.shape[1] != 1 else 1
    size = (x.value.shape[0], width, *x.value.shape[2:])
    image = torch.ones_like(x.visible[:1, :1]) if x.is_padding is None else ~x.is_padding
    kind = torch.promote_types(x.value.dtype, torch.float32)
    return (x.visible & image).expand(size).to(kind), image.expand(size).to(kind)


def bins_of(
    function: Callable, inputs: Sequence[Any], rois: Any, shares: bool, grouped: bool = False
) -> tuple[Any, ...]:
    """What `function(maps)` cuts out of maps (N, C, *S), masked and what else it gives, hidden boxes hidden.

    `shares`: it is a mean over the cells of a bin, of which the visible ones count; else their maximum.
    `grouped`: each bin reads channels of its own. `rois`: what the boxes come from, one row each.
    """
    maps = [x if isinstance(x, Masked) else Masked(x, everywhere(x)) for x in inputs]
    value, *rest = _several(function([_readable(x, shares) for x in maps]))
    alike = grouped or any(x.visible.shape[1] != 1 for x in maps)
    pictures = zip(*(_pictures(x, alike) for x in maps), strict=True)
    seen, inside = (_several(function(list(each)))[0] for each in pictures)
    visible = (seen > LEAST) | (inside <= LEAST)
    if shares:
        whole = inside / seen.clamp(min=LEAST)
        value = value * torch.where(visible & (seen < inside), whole, 1.0).to(value.dtype)
    if grouped and all(x.visible.shape[1] == 1 for x in maps):
        visible = visible[:, :1]
    shown = _shown(rois, value.ndim)
    visible = visible if shown is None else visible & shown
    return zero_hidden_pair(Masked(value, visible)), *rest


def _several(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _cut_out(name: str, shares: bool, grouped: bool) -> None:
    """Give `torchvision.<name>(input, boxes, *geometry)` a rule."""

    @operator(f"torchvision.{name}")
    def rule(input: Float[Any, "N C H W"], rois: Float[Any, "K 5"], *geometry: Any) -> Any:
        function, boxes = getattr(torch.ops.torchvision, name), plain_of(rois)
        cut = lambda maps: function(maps[0], boxes.to(maps[0].dtype), *geometry)  # noqa: E731
        out, *rest = bins_of(cut, [input], rois, shares, grouped)
        return (out, *rest) if rest else out


def _readable(x: Masked, shares: bool) -> Tensor:
    return zero_hidden(x) if shares else torch.where(x.visible, x.value, -torch.inf)


for name, shares, grouped in (
    ("roi_align", True, False),
    ("roi_pool", False, False),
    ("ps_roi_align", True, True),
    ("ps_roi_pool", True, True),
):
    _cut_out(name, shares, grouped)


@operator("torchvision.deform_conv2d")
def deform_conv2d(
    input: Float[Any, "N C H W"],
    weight: Float[Tensor, "D G R Q"],
    offset: Float[Any, "N O P T"],
    mask: Float[Any, " N ..."],
    bias: Float[Tensor, " D"],
    *geometry: Any,
) -> Float[Masked, "N D P T"]:
    """A convolution whose cells are moved: filled as for one that is not, and 0 further away.

    `geometry`: stride, padding and dilation (rows and columns of each), groups, groups of offsets, whether
    `mask` is used. Visible where a cell that was read is, or only padding was, if the moves are visible.
    """
    *sizes, _, movers, weighs = geometry
    stride, padding, dilation = (tuple(sizes[i : i + 2]) for i in (0, 2, 4))
    window = conv_window(weight, stride, padding, dilation)
    x = on_grid(input if isinstance(input, Masked) else Masked(input, everywhere(input)), 2)
    value = neighbor(zero_hidden_pair(x), tuple(r + 1 for r in window.reach))  # bilinear: a cell further
    moves = plain_of(offset)
    out = torch.ops.torchvision.deform_conv2d(value, weight, moves, plain_of(mask), bias, *geometry)
    seen, inside = (_touched(m, weight, moves, sizes, movers) for m in _pictures(x, False))
    visible = seen | ~inside
    for given in (offset, mask if weighs else None):
        if isinstance(given, Masked):
            visible = visible & given.visible.all(1, keepdim=True)
    return Masked(out, visible, is_padding=~inside & visible)


def _touched(
    cells: Shaped[Tensor, "#N C H W"],
    weight: Float[Tensor, "D G R Q"],
    moves: Float[Tensor, "N O P T"],
    sizes: Sequence[int],
    movers: int,
) -> Bool[Tensor, "N 1 P T"]:
    """Which windows read any of the cells, given as numbers: (N or 1, 1 or C, H, W) to (N, 1, H', W')."""
    cells = cells.amax(1, keepdim=True).expand(len(moves), movers, -1, -1).to(moves.dtype)
    ones = cells.new_ones((1, movers, *weight.shape[2:]))
    rest = (cells.new_zeros(len(moves), 1, 1, 1), cells.new_zeros(1), *sizes, 1, movers, False)
    return torch.ops.torchvision.deform_conv2d(cells, ones, moves, *rest) > LEAST


@operator("torchvision.nms")
def nms(dets: Float[Any, "K 4"], scores: Float[Any, " K"], iou_threshold: float) -> Int[Tensor, " P"]:
    """The places of the boxes that stay. Hidden boxes, and those of a hidden score, are no boxes at all."""
    shown = [
        x.visible.expand(x.value.shape).reshape(len(x), -1).all(1)
        for x in (dets, scores)
        if isinstance(x, Masked)
    ]
    places = torch.stack(shown).all(0).nonzero()[:, 0]
    boxes, scores = (plain_of(x)[places] for x in (dets, scores))
    return places[torch.ops.torchvision.nms(boxes, scores, iou_threshold)]
