"""A 3-D volume in sliding windows: NaN outside of the body, and empty windows are skipped.

    python examples/volume_windows.py

What lies outside (air, the table, padding) is no part of any answer, so windows that hold nothing else need
not be run. Of a file: `lm.data.load_volume("scan.nii.gz")`, and `volume[volume <= -1000] = torch.nan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor, nn

import layermask as lm

SHAPE, WINDOW, STEP, CLASSES = (24, 24, 24), 12, 6, 3


def segmenter() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(6, CLASSES, 1),
    ).eval()


def body() -> Tensor:
    """Return a volume (1, 1, D, H, W): a ball, and NaN around it."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = sum((axis + 0.35) ** 2 for axis in axes) < 0.3
    return torch.where(inside, torch.randn(SHAPE), torch.nan)[None, None]


def windows() -> Iterator[tuple[slice, ...]]:
    starts = (range(0, length - WINDOW + 1, STEP) for length in SHAPE)
    for corner in product(*starts):
        yield tuple(slice(start, start + WINDOW) for start in corner)


@torch.no_grad()
def in_windows(model: Callable[[Tensor], Tensor], volume: Tensor, skip: bool) -> tuple[Tensor, int]:
    """Return the mean of the windows' answers (1, classes, D, H, W), 0 where none is, and how many ran."""
    total, count, run = torch.zeros(1, CLASSES, *SHAPE), torch.zeros(SHAPE), 0
    for window in windows():
        part = volume[(..., *window)]
        shown = ~part.isnan()[0, 0]
        if skip and not shown.any():
            continue
        total[(..., *window)] += torch.where(shown, model(part), 0)
        count[window] += shown
        run += 1
    return total / count.clamp(min=1), run


def main() -> None:
    torch.manual_seed(0)
    volume, model = body(), lm.adapters.NaNHidden(lm.LayerMasking(segmenter()))
    answer, run = in_windows(model, volume, skip=True)
    whole, every = in_windows(model, volume, skip=False)
    print(f"{run} of {every} windows hold something; the answer is the same: {torch.equal(answer, whole)}")
    assert run < every and torch.equal(answer, whole) and bool(answer.isfinite().all())


if __name__ == "__main__":
    main()
