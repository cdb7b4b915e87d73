"""Random arguments for every kernel in C, valid ones, of sizes that vectors and tiles do not divide."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.kernels.signatures import KINDS
from layermask.padding import custom_op

SIZES = [0, 1, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 130]
HOW = 7


class Draw:
    """Random sizes and tensors, the same for the same seed."""

    def __init__(self, seed: int, panel: int) -> None:
        self.random, self.panel = random.Random(seed), panel
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, least: int = 0, most: int = 130) -> int:
        return self.random.choice([n for n in SIZES if least <= n <= most])

    def often(self) -> bool:
        return self.random.random() < 0.7

    def floats(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(dtype)

    def maybe(self, *shape: int) -> Tensor | None:
        return self.floats(*shape) if self.often() else None

    def table(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, max(high, low + 1), shape, dtype=torch.int32, generator=self.generator)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < self.random.choice([0.0, 0.1, 0.5, 0.9, 1.0])

    def end(self) -> tuple[int, float, float]:
        return self.random.randrange(HOW), -0.5, 1.5

    def spaced(self, rows: int, columns: int) -> Tensor:
        """Rows of a wider matrix."""
        wide = self.floats(rows, columns + 5)
        return wide[:, 2 : 2 + columns] if self.often() else wide[:, :columns].contiguous()

    def volume(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """(N, C, D, H, W) in one of the layouts that models have."""
        x = self.floats(*shape, dtype=dtype)
        layouts = [
            lambda: x,
            lambda: x.movedim(1, -1).contiguous().movedim(-1, 1),
            lambda: torch.cat([x, x], 1)[:, shape[1] // 2 : shape[1] // 2 + shape[1]],
            lambda: x.transpose(-1, -2).contiguous().transpose(-1, -2),
            lambda: torch.stack([x, x], -1)[..., 0],
        ]
        return self.random.choice(layouts)()


def _rows(draw: Draw) -> tuple[int, int, int]:
    """Rows held, rows asked for, channels. Of none held, none are asked for."""
    held = draw.size()
    return held, draw.size() if held else 0, draw.size()


def _affine(draw: Draw) -> list:
    held, rows, channels = _rows(draw)
    at = draw.table(0, held, rows) if draw.often() else None
    rows = rows if at is not None else held
    scales = draw.floats(3, channels) if draw.often() else None
    given = (scales, None if scales is None else draw.table(0, 3, rows))
    scale = None if scales is not None else draw.maybe(channels)
    out = draw.spaced(rows, channels)
    return [draw.floats(held, channels), at, scale, *given, draw.maybe(channels), out, *draw.end()]


def _layer_norm(draw: Draw) -> list:
    held, rows, channels = _rows(draw)
    at = draw.table(0, held, rows) if draw.often() else None
    out = draw.floats(rows if at is not None else held, channels)
    return [draw.floats(held, channels), at, draw.maybe(channels), draw.maybe(channels), out, 1e-5]


def _maximum(draw: Draw) -> list:
    held, rows, channels = _rows(draw)
    table = draw.table(-1, held, rows, draw.size(0, 17))
    return [draw.floats(held, channels), table, draw.floats(rows, channels)]


def _image_means(draw: Draw) -> list:
    held, images, channels = draw.size(), draw.size(0, 8), draw.size()
    begins = torch.cat([draw.table(0, held + 1, images + 1).sort().values]).long()
    return [draw.floats(held, channels), begins, draw.floats(images, channels)]


def _two_sources(draw: Draw, width: int, taps: int) -> tuple[Tensor, Tensor | None, Tensor]:
    held, filled = draw.size(), draw.size() if draw.often() else None
    count = held + (filled or 0)
    table = draw.table(0, count, draw.size() if count else 0, taps)
    return draw.spaced(held, width), None if filled is None else draw.floats(filled, width), table


def _depthwise(draw: Draw) -> list:
    channels, taps = draw.size(), draw.size(0, 17)
    first, second, table = _two_sources(draw, channels, taps)
    weights, bias, out = draw.floats(taps, channels), draw.maybe(channels), draw.floats(len(table), channels)
    return [first.contiguous(), second, table, weights, bias, out, *draw.end()]


def _product(draw: Draw) -> list:
    groups, taps, channels, columns = draw.size(1, 3), draw.size(0, 17), draw.size(), draw.size()
    first, second, table = _two_sources(draw, groups * channels, taps)
    if taps == 1 and draw.often():
        second, rows, table = None, len(first), None
    else:
        rows = len(table)
    panels = -(-columns // draw.panel)
    weights = draw.floats(groups, panels, taps, channels, draw.panel)
    if columns:
        weights[:, -1, :, :, columns - (panels - 1) * draw.panel :] = 0
    added, at = None, None
    if draw.often():
        held = draw.size(1) if rows else 0
        at = draw.table(0, held, rows) if draw.often() else None
        added = draw.floats(held if at is not None else rows, groups * columns)
    more = (draw.maybe(groups * columns), added, at, draw.floats(rows, groups * columns), columns)
    return [first, second, table, weights, *more, *draw.end()]


def _means(draw: Draw) -> list:
    held, filled, channels = draw.size(1), draw.size(1), draw.size()
    begin = draw.random.randint(0, filled - 1)
    sources, out = draw.table(0, held + begin, filled, 8), draw.floats(filled + 1, channels)
    for row in range(filled):
        sources[row, draw.random.randint(1, 8) :] = -1
    return [draw.floats(held, channels), sources, out, begin, draw.random.randint(begin, filled)]


def _map_size(draw: Draw) -> tuple[int, ...]:
    if draw.often():
        return 1, draw.size(0, 17), draw.size(0, 17)
    return draw.size(0, 5), draw.size(0, 8), draw.size(0, 8)


def _reach(draw: Draw, most: int = 6) -> tuple[int, int, int]:
    return tuple(draw.random.randint(0, most) for _ in range(3))  # type: ignore[return-value]


def _fill_rings(draw: Draw) -> list:
    images, size = draw.size(0, 3), _map_size(draw)
    visible = draw.mask(images, 1, *size)
    is_padding = draw.mask(draw.random.choice([1, images]), 1, *size) if draw.often() else None
    return [visible, is_padding, torch.full(visible.shape, 9, dtype=torch.uint8), *_reach(draw)]


def _fill_values(draw: Draw) -> list:
    images, channels, size, reach = draw.size(0, 3), draw.size(0, 100), _map_size(draw), _reach(draw)
    visible = draw.mask(draw.random.choice([1, images]), 1, *size)
    rings = custom_op._rings(visible, None, list(reach)) if visible.numel() else visible.to(torch.uint8)
    value = draw.volume(images, channels, *size, dtype=draw.random.choice([*KINDS]))
    return [value, rings, *reach, draw.random.choice([0.0, 1e-5])]


def _hide_values(draw: Draw) -> list:
    images, channels, size = draw.size(0, 3), draw.size(0, 100), _map_size(draw)
    visible = draw.mask(draw.random.choice([1, images]), 1, *size)
    value = draw.volume(images, channels, *size, dtype=draw.random.choice([*KINDS]))
    return [value, visible, draw.random.choice([0.0, -float("inf"), 0.3])]


def _window(draw: Draw, h: int, w: int) -> list[int]:
    """Kernel, stride, padding before and dilation, each along both axes."""
    kernel, stride, before, dilation = (
        [draw.random.randint(a, b) for _ in "hw"] for a, b in [(1, 4), (1, 3), (0, 3), (1, 3)]
    )
    return [h, w, draw.random.randint(1, 9), draw.random.randint(1, 9), *kernel, *stride, *before, *dilation]


def _window_cells(draw: Draw) -> list:
    numbers = _window(draw, draw.size(0, 17), draw.size(0, 17))
    count = draw.size()
    cells = draw.table(0, 3 * numbers[2] * numbers[3], count)
    return [cells, draw.table(0, 9, count, numbers[4] * numbers[5]), *numbers]


def _read(draw: Draw) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """A mask, the cells of it that outputs read, where those of each image begin, and the reach."""
    images, h, w, taps = draw.size(0, 3), draw.size(0, 17), draw.size(0, 17), draw.size(0, 8)
    counts = [draw.size(0, 33) for _ in range(images)]
    parts = [draw.table(-1, h * w, n, taps) for n in counts]
    parts = [torch.where(part < 0, part, part + i * h * w) for i, part in enumerate(parts)]
    read = torch.cat(parts) if parts else draw.table(0, 1, 0, taps)
    begins = torch.tensor([0, *counts]).cumsum(0)
    return draw.mask(images, h, w), read if h * w else read * 0 - 1, begins, _reach(draw)[:2]


def _need(draw: Draw) -> list:
    visible, read, begins, reach = _read(draw)
    rings = visible.byte()
    if visible.numel():
        rings = custom_op._rings(visible[:, None], None, list(reach))[:, 0]
    listed, needed = torch.full_like(rings, 9), draw.table(0, 1, visible.numel())
    return [rings, read, begins, listed, needed, draw.table(0, 9, len(visible), 256), *reach]


def _number_rows(draw: Draw) -> list:
    """What `need` has found, by the kernel itself."""
    from layermask.kernels import library

    rings, read, begins, listed, needed, counts, *reach = _need(draw)
    kernels = library()
    assert kernels is not None
    kernels.need(rings, read, begins, listed, needed, counts, *reach)
    before = counts.t().flatten().cumsum(0).view(256, -1).t() - counts
    visible = rings.flatten() == 0
    rows = int(visible.sum())
    number = torch.where(visible, visible.cumsum(0) - 1, -1).int()
    sources = draw.table(0, 9, int(counts.sum()), 8)
    begins = (before + rows).int().contiguous()
    return [rings, needed, counts, begins, number, sources, read, rows, *reach]


CASES: dict[str, Callable[[Draw], list[Any]]] = {
    "fill_rings": _fill_rings,
    "fill_values": _fill_values,
    "hide_values": _hide_values,
    "window_cells": _window_cells,
    "need": _need,
    "number_rows": _number_rows,
    "means": _means,
    "product": _product,
    "depthwise": _depthwise,
    "maximum": _maximum,
    "layer_norm": _layer_norm,
    "affine": _affine,
    "image_means": _image_means,
}
"""Arguments as signatures.py lists them, without the number of threads."""


def side_by_side(draw: Draw) -> list:
    rows, widths = draw.size(), [draw.size(0, 33) for _ in range(draw.random.randint(1, 5))]
    ats = [draw.table(0, 9, rows) if draw.often() else None for _ in widths]
    sources = [
        draw.floats(9 if at is not None else rows, width) for at, width in zip(ats, widths, strict=True)
    ]
    channels = sum(widths)
    return [
        sources,
        ats,
        draw.maybe(channels),
        draw.maybe(channels),
        draw.floats(rows, channels),
        *draw.end(),
    ]


def checksum(draw: Draw) -> list:
    sizes = [draw.random.choice([0, 1, 63, 64, 65, 1000, 70_000]) for _ in range(draw.size(0, 8))]
    return [[draw.floats(size) for size in sizes], torch.zeros(1, dtype=torch.int64)]


CASES |= {"side_by_side": side_by_side, "checksum": checksum}
"""These two take lists of tensors."""
