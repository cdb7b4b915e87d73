"""Neighbour padding (the paper's Algorithm 1): hidden cells near the visible part, filled ring by ring.

The r-th ring of hidden cells takes the mean of its neighbours (up to 3^d - 1) that are visible or in an
earlier ring. A window that holds a visible cell reads no further than `reach` cells from it, so `reach`
rings give the same windows, bit for bit, as the paper's k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import derive
from layermask.core.masked import Masked, settled
from layermask.core.ownership import is_ours
from layermask.core.tracing import is_watched
from layermask.core.window import FEW_CHANNELS, Window, box_sum, count, neighborhood
from layermask.padding import custom_op as opaque
from layermask.padding import neighbor as filling

EPSILON: dict[str | None, float] = {"paper": 1e-8, "release": 1e-5, None: 0.0}
"""Added to the neighbour count by the paper's algorithm and by its released code; by default nothing is."""


def neighbor(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The value with the hidden cells within `reach` (cells per spatial axis) of a visible one filled.

    `x.value`: (N, C, *S) with len(S) == len(reach); the mask varies along all of S or along none of it.
    What lies further away, or behind a frame, is zero or, as no window that is kept reads it, unspecified
    still. Where nothing else holds the value and nothing is differentiated, it is filled in place.
    """
    if all(n == 1 for n in x.visible.shape[2:]):
        return settled(x)
    way = _way(x, reach)
    return way(x if x.frame is None or way is _fill_dense else _with_zeros(x), reach)


def _with_zeros(x: Masked) -> Masked:
    """With zeros at hidden cells: no ring fills those that a frame cuts off from the visible ones."""
    out = Masked(settled(x), x.visible, frame=x.frame)
    out.run = x.run
    return out


def _way(x: Masked, reach: tuple[int, ...]) -> Callable[[Masked, tuple[int, ...]], Tensor]:
    """Which of the ways below to take: the fastest that may be."""
    if not _shares_mask(x) or x.value.requires_grad or max(reach) >= filling.NEVER:
        return _fill_dense  # the reference
    if torch.compiler.is_compiling():
        return _fill_opaquely if opaque.wanted() else _fill_dense
    if is_watched(x.value) or x.value.dtype not in filling.KINDS:
        return _fill_dense
    if filling.kernel(x.value.device) is not None:
        return _fill_by_kernel
    return _fill_edges if x.value.is_cpu and x.value.shape[1] > FEW_CHANNELS else _fill_dense


def _shares_mask(x: Masked) -> bool:
    """Whether all channels have one mask."""
    return x.visible.shape[1] == 1 and (x.frame is None or x.frame.shape[1] == 1)


def _sources(x: Masked) -> Tensor:
    """The cells to fill from: visible, and no padding."""
    return x.visible if x.frame is None else x.visible & ~x.frame


def _rings(x: Masked, reach: tuple[int, ...]) -> list[tuple[Window, Tensor, Tensor, Tensor]]:
    """Per ring: the neighbourhood, the known cells, the count of known neighbours, the cells to fill."""

    def compute() -> list[tuple[Window, Tensor, Tensor, Tensor]]:
        rings, known = [], _sources(x)
        open_cells = ~x.visible
        for ring in range(1, max(reach) + 1):
            box = neighborhood(reach, ring)
            near = count(known, box)
            cells = open_cells & (near > 0)
            rings.append((box, known, near, cells))
            known, open_cells = known | cells, open_cells & ~cells
        return rings

    return derive(x.run, "rings", _masks(x), reach, compute)


def _masks(x: Masked) -> tuple[Tensor, ...]:
    return (x.visible,) if x.frame is None else (x.visible, x.frame)


def _epsilon(x: Masked) -> float:
    return EPSILON[x.run.settings.compat if x.run else None]


def _fill_dense(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The reference: a box sum over the whole map for every ring. Differentiable, traceable, no host sync."""
    value = settled(x)
    narrow = value.dtype in (torch.float16, torch.bfloat16)  # whose sums of neighbours overflow, or round
    value = value.float() if narrow else value
    framed = value if x.frame is None else torch.where(x.frame, 0.0, value)
    for box, _, near, cells in _rings(x, reach):
        divisor = near.clamp(min=1).to(value.dtype) + _epsilon(x)
        framed = torch.where(cells, box_sum(framed, box) / divisor, framed)
    return (framed if x.frame is None else torch.where(x.frame, value, framed)).to(x.value.dtype)


def _fill_by_kernel(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The same by the compiled kernel of the device: edge cells only, in place where that shows nowhere."""
    kernel = filling.kernel(x.value.device)
    if kernel is None or not any(reach):
        return x.value
    rings = derive(x.run, "ring map", _masks(x), reach, lambda: kernel.rings(x.visible, x.frame, reach))
    value = x.value if is_ours(x) else x.value.clone()
    kernel.fill_(value, rings, reach, _epsilon(x))
    return value


def _fill_opaquely(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The same as operators that a compiler does not look into. It may find that no copy is needed."""
    if not any(reach):
        return x.value
    value = x.value.clone()
    rings = derive(x.run, "ring map", _masks(x), reach, lambda: opaque.rings(x.visible, x.frame, reach))
    opaque.fill_(value, rings, reach, _epsilon(x))
    return value


def _fill_edges(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The same, computing cells next to an edge only, as rows of one (cells, C) matrix."""
    value = x.value
    plan = _plan(x, reach, (value.shape[0], *value.shape[2:]))
    if not plan:
        return value
    last_channels = value.movedim(1, -1)
    rows = last_channels.reshape(-1, value.shape[1])
    if rows.data_ptr() == value.data_ptr():  # channels-last: the rows are the value itself
        rows = rows.clone()
    for cells, sources, offsets, weights in plan:
        means = F.embedding_bag(sources, rows, offsets, mode="sum", per_sample_weights=weights.to(rows.dtype))
        rows.index_copy_(0, cells, means)
    filled = rows.reshape(last_channels.shape).movedim(-1, 1)
    return filled.contiguous() if value.is_contiguous() else filled


def _plan(x: Masked, reach: tuple[int, ...], grid: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Per ring: the cells to fill, the known cells each reads, their weights: `embedding_bag`'s arguments.

    Cells are numbered over `grid`, which is (N, *S).
    """

    def compute() -> list[tuple[Tensor, ...]]:
        plans = [_ring_plan(ring, grid, _epsilon(x)) for ring in _rings(x, reach)]
        return [plan for plan in plans if plan is not None]

    return derive(x.run, "plan", _masks(x), (reach, grid), compute)


def _ring_plan(
    ring: tuple[Window, Tensor, Tensor, Tensor], grid: tuple[int, ...], eps: float
) -> tuple[Tensor, ...] | None:
    box = ring[0]
    known, near, cells = (mask.expand(grid[0], 1, *grid[1:]) for mask in ring[1:])
    numbers = cells.flatten().nonzero()[:, 0]
    if not len(numbers):
        return None
    steps, inside = _neighbors(numbers, grid, box)
    around = (numbers[:, None] + steps).clamp_(0, known.numel() - 1)  # (R, 3^d)
    reads = known.flatten()[around] & inside
    counts = near.flatten()[numbers]
    offsets = F.pad(counts.cumsum(0)[:-1], (1, 0))
    weights = (1 / (counts.double() + eps)).repeat_interleave(counts)
    return numbers, around[reads], offsets, weights


def _neighbors(numbers: Tensor, grid: tuple[int, ...], box: Window) -> tuple[Tensor, Tensor]:
    """The steps to the cells of a neighbourhood, (3^d,), and which of them stay in the image, (R, 3^d)."""
    stride, steps, inside = 1, numbers.new_zeros(1), numbers.new_ones((len(numbers), 1), dtype=torch.bool)
    for size, on in zip(reversed(grid[1:]), reversed(box.before), strict=True):
        step = torch.arange(-on, on + 1, device=numbers.device)
        place = (numbers // stride % size)[:, None] + step
        steps = (step[:, None] * stride + steps).flatten()
        within = (place >= 0) & (place < size)
        inside = (within[:, :, None] & inside[:, None]).flatten(1)
        stride *= size
    return steps, inside


FILLS = ("neighbor", "zero", "renormalize")
"""What convolutions read at hidden cells: their neighbours' mean (the paper), zero, or zero with the sum
rescaled by the visible share of the window (partial convolution, Liu et al. 2018)."""
