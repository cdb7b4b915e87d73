"""Removal by painting: `fill(images, visible) -> images`, and the operators that lift a constant colour."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layermask.removal.inputs import check_inputs
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD


def constant_fill(images: Tensor, visible: Tensor, color: Tensor) -> Tensor:
    """Paint what is hidden. images (N, C, *S), visible (N, 1, *S) bool, color (C,) in the images' own units.

    A batch of one expands against the other, so many masks over one image copy nothing beforehand.
    """
    return torch.where(visible, images, color.to(images).view(1, -1, *[1] * (images.ndim - 2)))


class ConstantFill(nn.Module):
    """Answer from images whose hidden pixels are painted with one colour, `color` (C,), normalised."""

    color: Tensor

    def __init__(self, model: nn.Module, color: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("color", color.detach().clone(), persistent=False)

    def fill(self, images: Tensor, visible: Tensor) -> Tensor:
        return constant_fill(images, visible, self.color)

    def forward(self, images: Tensor, visible: Tensor) -> Any:
        """Return the model's output for images (N, C, *S) and visible (N or 1, 1, *S)."""
        return self.model(self.fill(images, check_inputs(images, visible)))


class Blackout(ConstantFill):
    """Hidden pixels are black, the value 0 before normalisation with `mean` and `std`."""

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        mean, std = torch.tensor(mean), torch.tensor(std)
        super().__init__(model, -mean / std)


class Greyout(ConstantFill):
    """Hidden pixels have the mean colour of ImageNet; on other than 3 channels, the mean of the data."""

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        mean, std = torch.tensor(mean), torch.tensor(std)
        grey = torch.tensor(IMAGENET_MEAN) if len(mean) == 3 else mean
        super().__init__(model, (grey - mean) / std)
