"""Removal by painting one colour."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.removal.fills.constant import Constant
from layermask.removal.painting import PixelFill, grey, normalisation
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD


class ConstantFill(PixelFill):
    """Hidden pixels have one colour: a value per channel, or one for all, normalised as the images are.

    Zero, the default, is the mean of the training data.
    """

    _origin = "color"

    def __init__(self, model: nn.Module, color: Tensor | Sequence[float] | float = 0.0) -> None:
        if isinstance(color, Tensor):
            color = kinds.tensor("color", color)
            color = color.flatten() if color.ndim > 1 else color
        super().__init__(model, Constant(color, self._origin))  # type: ignore[arg-type]  # which converts it

    @property
    def color(self) -> tuple[float, ...]:
        """One value per channel, or one for all."""
        return self.fill.color  # type: ignore[union-attr]  # of the `Constant`


class Blackout(ConstantFill):
    """Hidden pixels are black, the value 0 before normalisation with `mean` and `std`."""

    _origin = "mean and std"

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> None:
        mean, std = normalisation(mean, std)
        super().__init__(model, tuple(-m / s for m, s in zip(mean, std, strict=True)))


class Greyout(ConstantFill):
    """Hidden pixels have the mean colour of ImageNet; on other than 3 channels, the mean of the data."""

    _origin = "mean and std"

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> None:
        super().__init__(model, grey(mean, std))
