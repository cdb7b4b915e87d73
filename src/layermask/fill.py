"""Neighbour padding (the paper's Algorithm 1): hidden cells near the visible part, filled ring by ring.

The r-th ring of hidden cells takes the mean of its neighbours (up to 3^d - 1) that are visible or in an
earlier ring. A window that holds a visible cell reads no further than `reach` cells from it, so `reach`
rings give the same windows, bit for bit, as the paper's k. Cells further away are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .masked import Masked, settled
from .visibility import derive
from .window import Window, count, window_sum

EPSILON: dict[str | None, float] = {"paper": 1e-8, "release": 1e-5, None: 0.0}
"""Added to the neighbour count by the paper's algorithm and by its released code; by default nothing is."""


def neighbor(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The value with the hidden cells within `reach` (cells per spatial axis) of a visible one filled.

    `x.value`: (N, C, *S) with len(S) == len(reach). Axes along which the mask does not vary hold no
    neighbours that differ in visibility, and are not filled along.
    """
    n = len(reach)
    reach = tuple(r if x.visible.shape[d - n] != 1 else 0 for d, r in enumerate(reach))
    value = settled(x)
    if not any(reach):
        return value
    return _fill_edges(x, value, reach) if _edges_pay(value, x.visible) else _fill_dense(x, value, reach)


def _box(reach: tuple[int, ...], ring: int) -> Window:
    """The 3-wide neighbourhood along the axes that the ring still extends on."""
    on = tuple(int(r > ring) for r in reach)
    return Window(tuple(1 + 2 * o for o in on), (1,) * len(on), on, on, (1,) * len(on))


def _sources(x: Masked) -> Tensor:
    """The cells to fill from: visible, and no padding."""
    return x.visible if x.frame is None else x.visible & ~x.frame


def _rings(x: Masked, reach: tuple[int, ...]) -> list[tuple[Window, Tensor, Tensor, Tensor]]:
    """Per ring: the neighbourhood, the known cells, the count of known neighbours, the cells to fill."""

    def compute() -> list[tuple[Window, Tensor, Tensor, Tensor]]:
        rings, known = [], _sources(x)
        open_cells = ~x.visible
        for ring in range(max(reach)):
            box = _box(reach, ring)
            near = count(known, box)
            cells = open_cells & (near > 0)
            rings.append((box, known, near, cells))
            known, open_cells = known | cells, open_cells & ~cells
        return rings

    masks = (x.visible,) if x.frame is None else (x.visible, x.frame)
    return derive(x.run, "rings", masks, reach, compute)


def _epsilon(x: Masked) -> float:
    return EPSILON[x.run.settings.compat if x.run else None]


def _fill_dense(x: Masked, value: Tensor, reach: tuple[int, ...]) -> Tensor:
    """The reference: a box sum over the whole map for every ring. Differentiable, traceable, no host sync."""
    framed = value if x.frame is None else torch.where(x.frame, 0.0, value)
    for box, _, near, cells in _rings(x, reach):
        divisor = near.clamp(min=1).to(value.dtype) + _epsilon(x)
        framed = torch.where(cells, _box_sum(framed, box) / divisor, framed)
    return framed if x.frame is None else torch.where(x.frame, value, framed)


def _box_sum(value: Tensor, box: Window) -> Tensor:
    """The sum over each cell's neighbourhood: shifted slices for few channels, else a depthwise conv."""
    channels = value.shape[1]
    if channels <= FEW_CHANNELS:
        return window_sum(value, box)
    conv: Callable = (F.conv1d, F.conv2d, F.conv3d)[len(box.kernel) - 1]
    ones = value.new_ones((1, 1, *box.kernel)).expand(channels, 1, *box.kernel)
    with torch.autocast(value.device.type, enabled=False):
        return conv(value, ones, padding=box.before, groups=channels)


FEW_CHANNELS = 8  # measured on CPU at 3 channels, 224 x 224: slices 3.7 ms, depthwise convolution 51 ms


def _edges_pay(value: Tensor, visible: Tensor) -> bool:
    """Whether to touch edge cells only: not while tracing or differentiating, nor with few channels."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or type(value) is not Tensor:
        return False
    if value.requires_grad or visible.shape[1] != 1 or value.shape[1] <= FEW_CHANNELS:
        return False
    return not _intercepted() and value.dtype in (torch.float32, torch.float64)


def _intercepted() -> bool:
    """A dispatch mode (make_fx, FakeTensorMode) or a functorch transform sees the ops that are called."""
    modes = torch._C._len_torch_dispatch_stack()
    return bool(modes) or torch._C._are_functorch_transforms_active()


def _fill_edges(x: Masked, value: Tensor, reach: tuple[int, ...]) -> Tensor:
    """The same, reading and writing only cells next to an edge, as rows of one (cells, C) matrix."""
    plan = _plan(x, reach, tuple(value.shape))
    if not plan:
        return value
    last = value.movedim(1, -1)
    rows = last.reshape(-1, value.shape[1])
    shared = rows.data_ptr() == value.data_ptr()  # channels-last: the rows are the value itself
    for cells, sources, offsets, weights in plan:
        rows.index_copy_(
            0, cells, F.embedding_bag(sources, rows, offsets, mode="sum", per_sample_weights=weights)
        )
    if not shared:
        every = torch.cat([cells for cells, *_ in plan])
        places = torch.unravel_index(every, last.shape[:-1])
        last.index_put_(places, rows[every])
    return value


def _plan(x: Masked, reach: tuple[int, ...], shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Per ring: the cells to fill, the known cells each reads, their weights: `embedding_bag`'s arguments."""

    def compute() -> list[tuple[Tensor, ...]]:
        plans = [_ring_plan(ring, x, shape) for ring in _rings(x, reach)]
        return [plan for plan in plans if plan is not None]

    masks = (x.visible,) if x.frame is None else (x.visible, x.frame)
    return derive(x.run, "plan", masks, (reach, shape[0], shape[2:]), compute)


def _ring_plan(
    ring: tuple[Window, Tensor, Tensor, Tensor], x: Masked, shape: tuple[int, ...]
) -> tuple[Tensor, ...] | None:
    box, known, near, cells = ring
    full = (shape[0], *shape[2:])
    known, near, cells = (m.expand(shape[0], 1, *shape[2:]).reshape(full) for m in (known, near, cells))
    places = cells.nonzero()  # (R, 1 + d)
    if not len(places):
        return None
    steps = torch.tensor(list(product(*(range(-b, b + 1) for b in box.before))), device=cells.device)
    steps = F.pad(steps, (1, 0))  # a neighbour lies in the same image
    around = places[:, None] + steps  # (R, 3^d, 1 + d)
    sizes = torch.tensor(full, device=cells.device)
    inside = ((around >= 0) & (around < sizes)).all(-1)
    flat = (around * _strides(full, cells.device)).sum(-1)
    reads = inside & known.reshape(-1)[flat.clamp(0, known.numel() - 1)]
    counts = near.reshape(-1)[(places * _strides(full, cells.device)).sum(-1)]
    return _bags(places, reads, flat, counts, full, _epsilon(x), x.value.dtype)


def _bags(
    places: Tensor,
    reads: Tensor,
    flat: Tensor,
    counts: Tensor,
    full: tuple[int, ...],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    cells = (places * _strides(full, places.device)).sum(-1)
    offsets = F.pad(reads.sum(1).cumsum(0)[:-1], (1, 0))
    weights = (1 / (counts.to(dtype) + eps)).repeat_interleave(counts)
    return cells, flat[reads], offsets, weights


def _strides(full: tuple[int, ...], device: torch.device) -> Tensor:
    steps = [1]
    for size in reversed(full[1:]):
        steps.insert(0, steps[0] * size)
    return torch.tensor(steps, device=device)


FILLS = ("neighbor", "zero", "renormalize")
"""What convolutions read at hidden cells: their neighbours' mean (the paper), zero, or zero with the sum
rescaled by the visible share of the window (partial convolution, Liu et al. 2018)."""
