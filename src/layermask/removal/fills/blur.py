"""Blur: of the image itself, or of what a colour leaves of it, where hidden."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
from layermask.errors import InputError
from layermask.removal.fills.protocol import Fill, colour, draw

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def gaussian_blur(images: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """Blur (N, C, *S) along each spatial axis, mirrored at the border, as torchvision's `gaussian_blur`.

    Along an axis shorter than half the kernel, the kernel is cut to what the mirror image reaches.
    """
    for axis in range(2, images.ndim):
        images = _blurred_along(images, axis, kernel_size // 2, sigma)
    return images


def _blurred_along(images: Tensor, axis: int, radius: int, sigma: float) -> Tensor:
    radius = min(radius, images.shape[axis] - 1)
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    weights = torch.softmax(-((steps / sigma) ** 2) / 2, 0)
    lines = images.movedim(axis, -1)
    channels = lines.shape[0] * lines.shape[1]
    rows = F.pad(lines.reshape(1, channels, -1, lines.shape[-1]), (radius, radius, 0, 0), mode="reflect")
    # Depthwise and channels-last: 10 times faster on a CPU than one channel at a time.
    rows = rows.contiguous(memory_format=torch.channels_last)
    blurred = F.conv2d(rows, weights.expand(channels, 1, 1, -1), groups=channels)
    return blurred.reshape(lines.shape).movedim(-1, axis)


def check_gaussian(fill: Fill) -> None:
    """Check the `kernel_size` and `sigma` of a fill, in pixels."""
    check_fields(fill, kernel_size=_odd, sigma=partial(kinds.number, above=0))


def _odd(name: str, value: Any) -> int:
    found = kinds.count(name, value)
    if found % 2 == 0:
        raise InputError(f"{name} is {found}: give an odd number of pixels, 1 or more")
    return found


@dataclass(frozen=True)
class Blurred(Fill):
    """Hidden pixels come from the blurred image (Fong and Vedaldi 2017; Jain et al. 2022): they are read.

    `kernel_size` and `sigma` in pixels; the defaults are those of Jain et al.
    """

    kernel_size: int = 21
    sigma: float = 10.0
    reads: ClassVar = "all"

    def __post_init__(self) -> None:
        check_gaussian(self)

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        return gaussian_blur(images, self.kernel_size, self.sigma)


@dataclass(frozen=True)
class EdgeSmoothed(Fill):
    """Hidden pixels get `color`, then a blur that softens the edges; no visible pixel changes.

    The variant "edge smoothing" of the released code of Balasubramanian and Feizi 2023.
    """

    color: tuple[float, ...] = (0.0,)
    kernel_size: int = 5
    sigma: float = 1.0
    origin: str = field(default="color", repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, color=kinds.color, origin=kinds.text)
        check_gaussian(self)

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        painted = torch.where(visible, images, colour(self.origin, self.color, images))
        return gaussian_blur(painted, self.kernel_size, self.sigma)


if __name__ == "__main__":
    draw("blur", Blurred=Blurred(), EdgeSmoothed=EdgeSmoothed())
