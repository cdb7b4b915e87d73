"""What the windows of an op read, as row numbers: compiled, and in torch operators."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.window import Window
from layermask.kernels import library
from layermask.padding.rings import NEVER, earlier


@dataclass(eq=False)
class FillPlan:
    """What windows over the rows of some sites read, hidden cells filled ring by ring (Algorithm 1).

    Rows are numbered on: visible cells, then the filled ones, then one of zeros (padding).
    """

    table: Tensor  # (M, T) int32: the row that each kernel offset of each output reads
    sources: Tensor  # (R, 8) int32: the rows of which a filled one is the mean, then -1
    ends: list[int]  # how many filled rows there are up to the end of each ring


def window_cells(cells: Tensor, size: tuple[int, ...], out_size: tuple[int, ...], window: Window) -> Tensor:
    """(M, T) int32: the cell of (N, *size) that each kernel offset of output `cells` reads, or -1."""
    if cells.device.type == "cpu" and (lib := library()):
        read = cells.new_empty(len(cells), window.kernel[0] * window.kernel[1])
        numbers = (*size, *out_size, *window.kernel, *window.stride, *window.before, *window.dilation)
        lib.window_cells(cells, read, *numbers)
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
    rings: Tensor, rows: int, number: Tensor, read: Tensor, begins: Tensor, reach: tuple[int, ...]
) -> FillPlan:
    """The plan for outputs that read the cells `read` (M, T) of a source, those of an image from `begins` on.

    `rings`: (N, H, W), the map of the source, whose `rows` visible cells are rows `number` (N * H * W,).
    """
    if rings.device.type == "cpu" and library():
        return _compiled_plan(rings, rows, number.clone(), read, begins, reach)
    return _torch_plan(rings, rows, number.clone(), read, reach)


def _compiled_plan(
    rings: Tensor, rows: int, number: Tensor, read: Tensor, begins: Tensor, reach: tuple[int, ...]
) -> FillPlan:
    lib = library()
    assert lib is not None
    listed, needed = torch.empty_like(rings), torch.empty_like(number)
    counts = torch.empty(len(rings), 256, dtype=torch.int32)
    lib.need(rings, read, begins, listed, needed, counts, *reach)
    ends = list(itertools.accumulate(n for n in counts.sum(0).tolist() if n))
    before = counts.t().flatten().cumsum(0).view(256, -1).t() - counts  # by ring, then image
    sources = torch.empty(ends[-1] if ends else 0, 8, dtype=torch.int32)
    known = (needed, counts, (before + rows).int().contiguous())
    lib.number_rows(rings, *known, number, sources, read, rows, *reach)
    return FillPlan(read, sources, ends)


def _torch_plan(rings: Tensor, rows: int, number: Tensor, read: Tensor, reach: tuple[int, ...]) -> FillPlan:
    ring_of = rings.flatten()
    needed = torch.zeros_like(ring_of, dtype=torch.bool)
    needed[read[read >= 0].long()] = True
    needed &= (ring_of != 0) & (ring_of != NEVER)
    found, count = [], rows
    for ring in range(max(reach), 0, -1):  # a filled cell needs those that it is filled from
        cells = (needed & (ring_of == ring)).nonzero()[:, 0]
        around, known = earlier(rings, cells, ring, reach)
        needed[around[known]] |= ring_of[around[known]] > 0
        found.append((cells, around, known))
    ends, sources = [], [number.new_empty(0, 8)]
    for cells, _, _ in reversed(found):
        number[cells] = count + torch.arange(len(cells), dtype=torch.int32, device=cells.device)
        count += len(cells)
    for cells, around, known in reversed(found):
        if len(cells):
            sources.append(_listed(torch.where(known, number[around], -1)))
            ends.append((ends[-1] if ends else 0) + len(cells))
    named = number[read.clamp(min=0).long()]
    table = torch.where((read < 0) | (named < 0), count, named).int()
    return FillPlan(table, torch.cat(sources), ends)


def _listed(sources: Tensor) -> Tensor:
    """(R, 8): those that are there first, then -1."""
    order = (sources < 0).int().sort(dim=1, stable=True).indices
    first = sources.gather(1, order)[:, :8]
    return F.pad(first, (0, 8 - first.shape[1]), value=-1)
