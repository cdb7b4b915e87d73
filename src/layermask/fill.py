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

from .masked import Masked, settled
from .visibility import derive
from .window import Window, count, window_sum

EPSILON: dict[str | None, float] = {"paper": 1e-8, "release": 1e-5, None: 0.0}
"""Added to the neighbour count by the paper's algorithm and by its released code; by default nothing is."""


def neighbor(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The value with the hidden cells within `reach` (cells per spatial axis) of a visible one filled.

    `x.value`: (N, C, *S) with len(S) == len(reach); the mask varies along all of S or along none of it.
    What lies further away is zero or, as no window that is kept reads it, unspecified still.
    """
    if all(n == 1 for n in x.visible.shape[2:]):
        return settled(x)
    return _fill_edges(x, reach) if _edges_pay(x) else _fill_dense(x, reach)


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


def _fill_dense(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The reference: a box sum over the whole map for every ring. Differentiable, traceable, no host sync."""
    value = settled(x)
    narrow = value.dtype in (torch.float16, torch.bfloat16)  # whose sums of neighbours overflow, or round
    value = value.float() if narrow else value
    framed = value if x.frame is None else torch.where(x.frame, 0.0, value)
    for box, _, near, cells in _rings(x, reach):
        divisor = near.clamp(min=1).to(value.dtype) + _epsilon(x)
        framed = torch.where(cells, _box_sum(framed, box) / divisor, framed)
    return (framed if x.frame is None else torch.where(x.frame, value, framed)).to(x.value.dtype)


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


def _edges_pay(x: Masked) -> bool:
    """Whether to touch edge cells only: not while tracing or differentiating, nor with few channels."""
    value, frame = x.value, x.frame
    if torch.compiler.is_compiling() or torch._C._is_tracing() or type(value) is not Tensor:
        return False
    if x.visible.shape[1] != 1 or (frame is not None and frame.shape[1] != 1):
        return False  # rows share one mask
    if value.requires_grad or value.shape[1] <= FEW_CHANNELS:
        return False
    return not _intercepted() and value.dtype in (torch.float32, torch.float64)


def _intercepted() -> bool:
    """A dispatch mode (make_fx, FakeTensorMode) or a functorch transform sees the ops that are called."""
    modes = torch._C._len_torch_dispatch_stack()
    return bool(modes) or torch._C._are_functorch_transforms_active()


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

    masks = (x.visible,) if x.frame is None else (x.visible, x.frame)
    return derive(x.run, "plan", masks, (reach, grid), compute)


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
