"""What every kernel does, in torch operators and float64: slow, and with nothing of the kernels in it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from layermask.kernels.activation import ACTIVATIONS
from layermask.padding import custom_op


def end(x: Tensor, how: int, a: float, b: float) -> Tensor:
    return [*ACTIVATIONS.values()][how](x, a, b)


def picked(source: Tensor, at: Tensor | None, rows: int) -> Tensor:
    return source[:rows].double() if at is None else source[at.long()].double()


def joined(first: Tensor, second: Tensor | None) -> Tensor:
    return first.double() if second is None else torch.cat([first, second]).double()


def affine(
    source: Tensor, at: Any, scale: Any, scales: Any, scale_at: Any, shift: Any, out: Tensor, *how: Any
) -> None:
    x = picked(source, at, len(out))
    scale = scale if scales is None else scales[scale_at.long()]
    x = x if scale is None else x * scale
    out.copy_(end(x if shift is None else x + shift, *how))


def layer_norm(source: Tensor, at: Any, weight: Any, bias: Any, out: Tensor, eps: float) -> None:
    x = picked(source, at, len(out))
    x = x - x.mean(1, keepdim=True)
    x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
    x = x if weight is None else x * weight
    out.copy_(x if bias is None else x + bias)


def maximum(source: Tensor, table: Tensor, out: Tensor) -> None:
    low = torch.cat([source, source.new_full((1, source.shape[1]), -torch.inf)])
    names = torch.cat([table, table.new_full((len(table), 1), -1)], 1).long()
    out.copy_(low[torch.where(names < 0, len(source), names)].amax(1))


def image_means(source: Tensor, begins: Tensor, out: Tensor) -> None:
    for n, (begin, stop) in enumerate(pairwise(begins)):
        out[n] = source[begin:stop].double().mean(0) if stop > begin else 0


def depthwise(
    first: Tensor, second: Any, table: Tensor, weights: Tensor, bias: Any, out: Tensor, *how: Any
) -> None:
    x = (joined(first, second)[table.long()] * weights).sum(1)
    out.copy_(end(x if bias is None else x + bias, *how))


def product(
    first: Tensor,
    second: Any,
    table: Any,
    weights: Tensor,
    bias: Any,
    added: Any,
    added_at: Any,
    out: Tensor,
    columns: int,
    *how: Any,
) -> None:
    source, (groups, _, taps, channels, _) = joined(first, second), weights.shape
    read = source[: len(out), None] if table is None else source[table.long()]
    read = read.reshape(len(out), taps, groups, channels)
    matrix = weights.double().permute(0, 2, 3, 1, 4).flatten(3)[..., :columns]
    x = torch.einsum("mtgc,gtck->mgk", read, matrix).flatten(1)
    x = x if bias is None else x + bias
    out.copy_(end(x if added is None else x + picked(added, added_at, len(out)), *how))


def means(source: Tensor, sources: Tensor, out: Tensor, begin: int, stop: int) -> None:
    rows = torch.cat([source, out[:begin]]).double()
    for r in range(begin, stop):
        names = sources[r].tolist()
        names = names[: names.index(-1)] if -1 in names else names
        out[r] = rows[names].mean(0)


def side_by_side(sources: Any, ats: Any, scale: Any, shift: Any, out: Tensor, *how: Any) -> None:
    x = torch.cat([picked(source, at, len(out)) for source, at in zip(sources, ats, strict=True)], 1)
    x = x if scale is None else x * scale
    out.copy_(end(x if shift is None else x + shift, *how))


def fill_rings(visible: Tensor, is_padding: Any, rings: Tensor, *reach: int) -> None:
    if visible.numel():
        rings.copy_(custom_op._rings(visible, is_padding, _of_size(reach, visible)))


def fill_values(value: Tensor, rings: Tensor, *rest: Any) -> None:
    if value.numel():
        custom_op._fill_(value, rings, _of_size(rest[:3], rings), rest[3])


def _of_size(reach: tuple[int, ...], like: Tensor) -> list[int]:
    """Without the reach along axes of one cell, which has no other there."""
    return [r if n > 1 else 0 for r, n in zip(reach, like.shape[2:], strict=True)]


def hide_values(value: Tensor, visible: Tensor, number: float) -> None:
    value.copy_(torch.where(visible, value, torch.tensor(number, dtype=value.dtype)))


def window_cells(cells: Tensor, read: Tensor, h: int, w: int, out_h: int, out_w: int, *window: int) -> None:
    kernel_h, kernel_w, stride_h, stride_w, before_h, before_w, dilation_h, dilation_w = window
    for m, cell in enumerate(cells.tolist()):
        image, y, x = cell // (out_h * out_w), cell // out_w % out_h, cell % out_w
        for tap in range(kernel_h * kernel_w):
            i = y * stride_h - before_h + tap // kernel_w * dilation_h
            j = x * stride_w - before_w + tap % kernel_w * dilation_w
            read[m, tap] = (image * h + i) * w + j if 0 <= i < h and 0 <= j < w else -1


TWINS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        *(affine, layer_norm, maximum, image_means, depthwise, product, means, side_by_side),
        *(fill_rings, fill_values, hide_values, window_cells),
    )
}
"""`need` and `number_rows` make one plan together, which test_sparse.py holds against torch's."""
