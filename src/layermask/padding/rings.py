"""The rings of hidden cells around the visible part, and what each of their cells reads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import cached
from layermask.core.masked import Masked
from layermask.core.window import Window, count, neighborhood

NEVER = 255  # in a map of rings: neither to fill from nor to be filled
EPSILON: dict[str | None, float] = {"paper": 1e-8, "release": 1e-5, None: 0.0}
"""Added to the neighbour count by the paper's algorithm and by its released code; by default nothing is."""


Round = tuple[Window, Tensor, Tensor, Tensor]
"""Of one ring: the neighbourhood, the known cells, the count of known neighbours, the cells to fill."""


def rounds(visible: Tensor, frame: Tensor | None, reach: tuple[int, ...]) -> list[Round]:
    """Return the rings in order. A frame, which is visible, is nothing to fill from; masks are (N, C, *S)."""
    found, known = [], visible if frame is None else visible & ~frame
    open_cells = ~visible
    for ring in range(1, max(reach) + 1):
        box = neighborhood(reach, ring)
        near = count(known, box)
        cells = open_cells & (near > 0)
        found.append((box, known, near, cells))
        known, open_cells = known | cells, open_cells & ~cells
    return found


def rounds_of(x: Masked, reach: tuple[int, ...]) -> list[Round]:
    """The same of a pair, made once per mask."""
    return cached(x.run, "rings", masks_of(x), reach, lambda: rounds(x.visible, x.frame, reach))


def ring_map(visible: Tensor, frame: Tensor | None, reach: tuple[int, ...]) -> Tensor:
    """Return each cell's ring, uint8: 0 = to fill from, r = filled in round r, NEVER = neither."""
    out = torch.where(visible if frame is None else visible & ~frame, 0, NEVER)
    for ring, (_, _, _, cells) in enumerate(rounds(visible, frame, reach), 1):
        out = torch.where(cells, ring, out)
    return out.to(torch.uint8)


def rounds_in(rings: Tensor, reach: tuple[int, ...]) -> Iterator[Round]:
    """Read the rings off a map of them."""
    for ring in range(1, max(reach) + 1):
        box, known = neighborhood(reach, ring), rings < ring
        yield box, known, count(known, box), rings == ring


def masks_of(x: Masked) -> tuple[Tensor, ...]:
    return (x.visible,) if x.frame is None else (x.visible, x.frame)


def epsilon(x: Masked) -> float:
    return EPSILON[x.run.settings.compat if x.run else None]


def fill_plan(x: Masked, reach: tuple[int, ...], grid: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Per ring: the cells to fill, the known cells each reads, their weights: `embedding_bag`'s arguments.

    Cells are numbered over `grid`, which is (N, *S).
    """

    def compute() -> list[tuple[Tensor, ...]]:
        plans = [_ring_plan(ring, grid, epsilon(x)) for ring in rounds_of(x, reach)]
        return [plan for plan in plans if plan is not None]

    return cached(x.run, "plan", masks_of(x), (reach, grid), compute)


def _ring_plan(ring: Round, grid: tuple[int, ...], eps: float) -> tuple[Tensor, ...] | None:
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
