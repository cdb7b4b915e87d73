"""The paper's neighbour padding, of the input alone: rings of means, from the edges of holes inwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import is_readable
from layermask.core.masked import Masked
from layermask.padding.neighbor import neighbor
from layermask.removal.fills.protocol import Fill, draw

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Neighbors(Fill):
    """Each ring of hidden pixels gets the mean of its neighbours that are visible or in an earlier ring.

    The neighbours are up to 3^d - 1 (Balasubramanian and Feizi 2023, Algorithm 1). 0 if nothing is visible.
    """

    dims = (1, 2, 3)

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        rings = _rings(visible)
        return neighbor(Masked(images, visible), (rings,) * (images.ndim - 2)) if rings else images


def _rings(visible: Tensor) -> int:
    """How many rings fill every image of (N, 1, *S) that shows anything."""
    if not is_readable(visible):
        return max(visible.shape[2:]) - 1  # enough for any mask
    shown = visible[visible.flatten(1).any(1)].float()
    rings = 0
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[visible.ndim - 3]
    while not shown.all():
        shown, rings = pool(shown, 3, stride=1, padding=1), rings + 1
    return rings


if __name__ == "__main__":
    draw("neighbor", Neighbors=Neighbors())
