"""One colour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from layermask.arguments.kinds import Color, Text
from layermask.removal.fills.protocol import Fill, colour, draw

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Constant(Fill):
    """Hidden pixels get `color`, one value per channel or one for all, normalised as the images are."""

    color: Color = (0.0,)
    origin: Text = field(default="color", repr=False, compare=False, kw_only=True)
    """The arguments that the colour comes from, for errors."""
    reads: ClassVar = "nothing"

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        return colour(self.origin, self.color, images)


if __name__ == "__main__":
    draw("constant", Constant=Constant())
