"""Noisy linear imputation, the fill of ROAD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.kinds import MaybeSeed
from layermask.removal.fills.linear_imputation import linear_imputation
from layermask.removal.fills.noise import noise
from layermask.removal.fills.protocol import Fill, draw

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class NoisyLinear(Fill):
    """Each hidden pixel is the weighted mean of its 8 neighbours, plus noise (ROAD, Rong et al. 2022).

    `noise`: standard deviation, in normalised units. `seed`: as in `Noise`. 0 plus noise if nothing is
    visible. The published implementations solve one sparse system per picture; see `linear_imputation`.
    """

    noise: Annotated[float, partial(kinds.number, low=0, high=1000)] = 0.01
    seed: MaybeSeed = 0
    dims: ClassVar = (2,)
    exports: ClassVar = False  # solved in parts of so many channels, in as many steps as needed

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        filled = linear_imputation(images, visible.expand(len(images), *visible.shape[1:]))
        if not self.noise:
            return filled
        return filled + self.noise * noise("gaussian", images.shape[1], images, len(images), self.seed)


if __name__ == "__main__":
    draw("road", NoisyLinear=NoisyLinear())
