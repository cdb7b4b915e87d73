"""What the windows of an op read, as row numbers: compiled, and in torch operators."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.window import Window
from layermask.kernels import library
from layermask.padding.rings import NEVER, ring_map

FAR = 254  # what plan.c calls cells that no ring reaches: there are fewer rings


@dataclass(eq=False)
class FillPlan:
    """What windows over the rows of some sites read, hidden cells filled ring by ring (Algorithm 1).

    Rows are numbered on: visible cells, then the filled ones, then one of zeros (padding).
    """

    table: Tensor  # (M, T) int32: the row that each tap of each output reads
    sources: Tensor  # (R, 8) int32: the rows of which a filled one is the mean, then -1
    ends: list[int]  # how many filled rows there are up to the end of each ring


def taps(cells: Tensor, size: tuple[int, ...], out_size: tuple[int, ...], window: Window) -> Tensor:
    """(M, T) int32: the cell of (N, *size) that each tap of output cell `cells` reads; -1 outside."""
    if cells.device.type == "cpu" and (lib := library()):
        read = cells.new_empty(len(cells), window.kernel[0] * window.kernel[1])
        numbers = (*size, *out_size, *window.kernel, *window.stride, *window.before, *window.dilation)
        lib.taps(cells, read, *numbers)
        return read
    place = cells.long()
    image, y, x = (
        place // (out_size[0] * out_size[1]),
        place // out_size[1] % out_size[0],
        place % out_size[1],
    )
    ys, xs = (
        at[:, None] * s - b + d * torch.arange(k, device=cells.device)
        for at, k, s, b, d in zip(
            (y, x), window.kernel, window.stride, window.before, window.dilation, strict=True
        )
    )
    inside = ((ys >= 0) & (ys < size[0]))[:, :, None] & ((xs >= 0) & (xs < size[1]))[:, None]
    read = (image[:, None, None] * size[0] + ys[:, :, None]) * size[1] + xs[:, None]
    return torch.where(inside, read, -1).flatten(1).int()


def plan(
    visible: Tensor, number: Tensor, cells: Tensor, begins: Tensor, out_size: tuple[int, ...], window: Window
) -> FillPlan:
    """The plan for output cells over a source whose cells `visible` (N, H, W) are rows `number`.

    `cells`: (M,) int32, those of an image from `begins` (N + 1,) on.
    """
    read = taps(cells, tuple(visible.shape[1:]), out_size, window)
    if visible.device.type == "cpu" and library():
        return _compiled_plan(visible, number.clone(), read, begins, window.reach)
    return _torch_plan(visible, number.clone(), read, window.reach)


def _compiled_plan(
    visible: Tensor, number: Tensor, read: Tensor, begins: Tensor, reach: tuple[int, ...]
) -> FillPlan:
    lib = library()
    assert lib is not None
    level, listed = torch.empty(2, *visible.shape, dtype=torch.uint8)
    needed = torch.empty_like(number)
    counts = torch.empty(len(visible), 256, dtype=torch.int32)
    lib.need(visible, read, begins, level, listed, needed, counts, *reach)
    ends = list(itertools.accumulate(n for n in counts.sum(0).tolist() if n))
    rows, filled = int(visible.sum()), ends[-1] if ends else 0
    before = counts.t().flatten().cumsum(0).view(256, -1).t() - counts  # by level, then image
    sources = torch.empty(filled, 8, dtype=torch.int32)
    known = (level, needed, counts, (before + rows).int().contiguous())
    lib.number_rows(visible, *known, number, sources, read, rows, *reach)
    return FillPlan(read, sources, ends)


def _torch_plan(visible: Tensor, number: Tensor, read: Tensor, reach: tuple[int, ...]) -> FillPlan:
    level = ring_map(visible[:, None], None, reach)[:, 0]
    needed = torch.zeros_like(visible).flatten()
    needed[read[read >= 0].long()] = True
    needed &= (level.flatten() != 0) & (level.flatten() != NEVER)
    rings, count = [], int(visible.sum())
    for ring in range(max(reach), 0, -1):  # a filled cell needs those that it is filled from
        cells = (needed & (level.flatten() == ring)).nonzero()[:, 0]
        around, known = _around(level, cells, ring, reach)
        needed[around[known]] |= level.flatten()[around[known]] > 0
        rings.append((cells, around, known))
    ends, sources = [], [number.new_empty(0, 8)]
    for cells, _, _ in reversed(rings):
        number[cells] = count + torch.arange(len(cells), dtype=torch.int32, device=cells.device)
        count += len(cells)
    for cells, around, known in reversed(rings):
        if len(cells):
            sources.append(_listed(torch.where(known, number[around], -1)))
            ends.append((ends[-1] if ends else 0) + len(cells))
    rows = number[read.clamp(min=0).long()]
    table = torch.where((read < 0) | (rows < 0), count, rows).int()
    return FillPlan(table, torch.cat(sources), ends)


def _listed(sources: Tensor) -> Tensor:
    """(R, 8): those that are there first, then -1."""
    order = (sources < 0).int().sort(dim=1, stable=True).indices
    first = sources.gather(1, order)[:, :8]
    return F.pad(first, (0, 8 - first.shape[1]), value=-1)


def _around(level: Tensor, cells: Tensor, ring: int, reach: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The cells of a ring's 3-wide box about each cell, and which are in the image and filled before."""
    ones = [torch.arange(-(r >= ring), (r >= ring) + 1, device=cells.device) for r in reach]
    h, w = level.shape[1:]
    ys, xs = (cells // w % h)[:, None] + ones[0], (cells % w)[:, None] + ones[1]
    inside = ((ys >= 0) & (ys < h))[:, :, None] & ((xs >= 0) & (xs < w))[:, None]
    steps = (ones[0][:, None] * w + ones[1]).flatten()
    around = (cells[:, None] + steps).clamp(0, level.numel() - 1)
    return around, inside.flatten(1) & (level.flatten()[around] < ring)
