"""Push-pull: holes filled smoothly from a pyramid of ever coarser means (Gortler et al. 1996)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.removal.fills.protocol import Fill, draw

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class PushPull(Fill):
    """Hidden pixels get the mean of what is visible around them, at the finest scale where anything is.

    Push: 2^d cells become one, with their mean weighted by how much of each is visible, up to one cell for
    all. Pull: each coarser level, interpolated linearly, shows through where the finer one is not visible.
    0 if nothing is visible.
    """

    dims = (1, 2, 3)

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        return _filled(images, visible.to(images.dtype))


def _filled(sums: Tensor, weights: Tensor) -> Tensor:
    """The level's colours from `sums` (colours times weights) and weights from 0 to 1."""
    if max(sums.shape[2:]) == 1:
        return sums / torch.where(weights > 0, weights, 1.0)
    coarse, total = (_pooled(x) for x in (sums, weights))
    share = 1 / total.clamp(min=1)  # one whole visible cell of the four is enough to hide what is coarser
    below = _filled(coarse * share, total * share)
    return sums + (1 - weights) * _enlarged(below, sums)


def _pooled(x: Tensor) -> Tensor:
    """Sums over cells of 2^d; cells past the edge weigh nothing."""
    dims = x.ndim - 2
    odd = [pad for size in reversed(x.shape[2:]) for pad in (0, size % 2)]
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    return pool(F.pad(x, odd), 2) * 2**dims


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
    fine = F.interpolate(x, scale_factor=2.0, mode=mode)
    return fine[(..., *(slice(size) for size in like.shape[2:]))]


if __name__ == "__main__":
    draw("pushpull", PushPull=PushPull())
