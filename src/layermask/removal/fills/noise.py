"""Random colours: noise, or those of other pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from layermask._private_torch import as_constants, is_exporting, is_readable
from layermask.arguments.kinds import Color, MaybeSeed, PositiveColor
from layermask.removal.fills.protocol import Fill, colour, draw
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Distribution = Literal["gaussian", "uniform"]


def noise(kind: Distribution, channels: int, images: Tensor, batch: int, seed: int | None) -> Tensor:
    """Return noise (1, channels, *S) for a seed, the same whatever the batch, dtype and device.

    Without a seed: (batch, channels, *S), new at each call. "gaussian" has mean 0 and variance 1, "uniform"
    runs from 0 to 1.
    """
    shape = (channels, *images.shape[2:])
    if seed is None:
        draw = torch.randn if kind == "gaussian" else torch.rand
        return draw(batch, *shape, dtype=images.dtype, device=images.device)
    if is_exporting(images):
        with as_constants():  # a generator in the graph would go on from call to call
            field = _drawn(kind, shape, seed)
        return field.to(images)
    drawn = _drawn if is_readable(images) else _drawn.__wrapped__  # a fake tensor is not to be kept
    return drawn(kind, shape, seed).to(images)


@functools.lru_cache(maxsize=4)
def _drawn(kind: Distribution, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn if kind == "gaussian" else torch.rand
    return draw(1, *shape, generator=generator)


@dataclass(frozen=True)
class Noise(Fill):
    """Hidden pixels get noise, each channel its own.

    `kind`: "gaussian", with the mean and variance of normalised data; or "uniform" over all colours, from
    black to white before normalisation with `mean` and `std`. For a `seed` there is one field of noise per
    size of image, which all images share; None draws anew for every image and call.
    """

    kind: Distribution = "gaussian"
    seed: MaybeSeed = 0
    mean: Color = IMAGENET_MEAN
    std: PositiveColor = IMAGENET_STD
    reads: ClassVar = "nothing"

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        batch: Any = torch.sym_max(images.shape[0], visible.shape[0])  # len would fix the batch of a graph
        field = noise(self.kind, images.shape[1], images, batch, self.seed)
        if self.kind == "gaussian" and (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return field  # they were not given, and images need not have 3 channels
        mean, std = colour("mean", self.mean, images), colour("std", self.std, images)
        return field if self.kind == "gaussian" else (field - mean) / std


@dataclass(frozen=True)
class RandomPixels(Fill):
    """Each hidden pixel gets the colour of a random visible pixel of the same image; 0 if there is none.

    The choice follows one field of random numbers per size of image, as in `Noise`.
    """

    seed: MaybeSeed = 0

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        chances = noise("uniform", 1, images, images.shape[0], self.seed).flatten(1).double()
        shown = visible.flatten(1)
        counts = shown.sum(1, keepdim=True)
        ranks = (chances * counts).long().minimum((counts - 1).clamp(min=0))
        # Places of visible pixels, in order. Those of hidden ones all land in a last cell that is not read.
        order = torch.where(shown, shown.cumsum(1) - 1, shown.shape[1])
        places = torch.zeros(shown.shape[0], shown.shape[1] + 1, dtype=torch.int64, device=images.device)
        places.scatter_(1, order, torch.arange(shown.shape[1], device=images.device).expand_as(order))
        picks = places.expand(images.shape[0], -1).gather(1, ranks.expand(images.shape[0], -1))[:, None]
        return images.flatten(2).gather(2, picks.expand(-1, images.shape[1], -1)).view(images.shape)


if __name__ == "__main__":
    draw("noise", gaussian=Noise("gaussian"), uniform=Noise("uniform"), RandomPixels=RandomPixels())
