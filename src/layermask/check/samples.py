"""Random images and masks to try a model on; deterministic per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_images(batch: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return random images (batch, *shape) that differ at every scale: colour, coarse blobs, fine noise."""
    generator = torch.Generator().manual_seed(seed)
    channels, *size = shape
    colour = torch.randn(batch, channels, *[1] * len(size), generator=generator)
    blobs = torch.randn(batch, channels, *[4] * len(size), generator=generator)
    noise = torch.randn(batch, channels, *size, generator=generator)
    return 0.7 * colour + F.interpolate(blobs, size=size) + 0.5 * noise


def cells(size: Sequence[int], across: int, shown: float, generator: torch.Generator) -> Tensor:
    """Show each cell of a grid, `across` cells per axis, with probability `shown`: bool (*size)."""
    visible = torch.rand([across] * len(size), generator=generator) < shown
    for axis, length in enumerate(size):
        visible = visible.index_select(axis, torch.arange(length) * across // length)
    return visible


def _box(size: Sequence[int], start: Sequence[int], end: Sequence[int]) -> Tensor:
    visible = torch.zeros(*size, dtype=torch.bool)
    visible[tuple(slice(a, b) for a, b in zip(start, end, strict=True))] = True
    return visible


def _block(size: Sequence[int], generator: torch.Generator) -> Tensor:
    start = [int(torch.randint(0, length // 2 + 1, (), generator=generator)) for length in size]
    return _box(size, start, [a + max(1, length // 2) for a, length in zip(start, size, strict=True)])


def _pixel(size: Sequence[int], generator: torch.Generator) -> Tensor:
    start = [int(torch.randint(0, length, (), generator=generator)) for length in size]
    return _box(size, start, [a + 1 for a in start])


MASKS: dict[str, Callable[[Sequence[int], torch.Generator], Tensor]] = {
    "patches": lambda size, generator: cells(size, 14, 0.5, generator),  # the paper's 16x16 in 224x224
    "coarse": lambda size, generator: cells(size, 4, 0.3, generator),  # leaves holes in the last layers
    "block": _block,
    "pixel": _pixel,
    "none": lambda size, generator: torch.zeros(*size, dtype=torch.bool),
    "all": lambda size, generator: torch.ones(*size, dtype=torch.bool),
}


def masks(images: Tensor, kinds: Sequence[str], seed: int) -> Tensor:
    """Return one mask per image, bool (N, 1, *S), of the kinds given, repeated in turn."""
    generator = torch.Generator().manual_seed(seed)
    rows = [MASKS[kinds[i % len(kinds)]](images.shape[2:], generator) for i in range(len(images))]
    return torch.stack(rows).unsqueeze(1).to(images.device)
