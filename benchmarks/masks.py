"""Which pixels are hidden: the shapes of masks that benchmarks time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SIZE, SIDE = 224, 16


def patches(batch: int, hidden: float, draw: torch.Generator) -> Tensor:
    """Masks (batch, 1, 224, 224) in which that part of the 16x16 patches is hidden, others in each."""
    wide = SIZE // SIDE
    order = torch.rand(batch, wide * wide, generator=draw).argsort(1)
    grid = (order >= round(hidden * wide * wide)).view(batch, 1, wide, wide)
    return grid.repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)


def block(batch: int, hidden: float, draw: torch.Generator) -> Tensor:
    """Masks (batch, 1, 224, 224) with one hidden rectangle of that part of the area, of any proportions."""
    visible = torch.ones(batch, 1, SIZE, SIZE, dtype=torch.bool)
    area = hidden * SIZE * SIZE
    for mask in visible[:, 0]:
        lowest = max(1.0, area / SIZE)  # it is then as wide as the image
        high, left, top = torch.rand(3, generator=draw).tolist()
        height = round(lowest * (SIZE / lowest) ** high)
        width = min(SIZE, round(area / height))
        y, x = int(top * (SIZE - height + 1)), int(left * (SIZE - width + 1))
        mask[y : y + height, x : x + width] = False
    return visible


MASKS: dict[str, Callable[[int, float, torch.Generator], Tensor]] = {"patches": patches, "block": block}
