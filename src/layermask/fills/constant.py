"""One colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from layermask.fills.fill import Fill, colour


@dataclass(frozen=True)
class Constant(Fill):
    """Hidden pixels get `color`, one value per channel or one for all, normalised as the images are."""

    color: tuple[float, ...] = (0.0,)
    reads: ClassVar = "nothing"

    def paint(self, images: Tensor, visible: Tensor) -> Tensor:
        return colour(self.color, images)
