"""Mean colours: of what is visible, or of each segment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.errors import InputError
from layermask.removal.fills.protocol import Fill, draw
from layermask.segment.labels import sum_over

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class VisibleMean(Fill):
    """Hidden pixels get the mean colour of the image's visible pixels; 0 where there are none."""

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        axes = tuple(range(2, images.ndim))
        return images.sum(axes, keepdim=True) / visible.sum(axes, keepdim=True).clamp(min=1)


@dataclass(frozen=True, eq=False)
class SegmentMean(Fill):
    """Each hidden pixel gets the mean colour of its segment's pixels, hidden ones too (Ribeiro et al. 2016).

    It is what the lime package paints unless told otherwise, and it shows the model what it hides: the
    colour of every segment.
    """

    segments: Annotated[Tensor, kinds.label_map]
    """(*S) whole numbers from 0, such as a segmenter returns."""
    reads: ClassVar = "all"
    _labels: Tensor = field(init=False, repr=False)
    _count: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segments.min() < 0:
            low, shape = int(self.segments.min()), tuple(self.segments.shape)
            raise InputError(f"segments of shape {shape} go down to {low}: give whole numbers from 0")
        # read once, and not from a device; numbers may be large and have gaps
        object.__setattr__(self, "_labels", torch.unique(self.segments, return_inverse=True)[1].flatten())
        object.__setattr__(self, "_count", int(self._labels.max()) + 1)

    def __str__(self) -> str:
        return f"SegmentMean(segments of shape {tuple(self.segments.shape)})"

    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        size = tuple(images.shape[2:])
        if self.segments.shape[-len(size) :] != size or self.segments.numel() != math.prod(size):
            raise InputError(
                f"segments of shape {tuple(self.segments.shape)} for images of shape {tuple(images.shape)}: "
                f"give a map of shape {size}"
            )
        labels = self._labels.to(images.device)
        sums = sum_over(labels, images.flatten(2), self._count)
        sizes = sum_over(labels, torch.ones_like(labels, dtype=images.dtype), self._count)
        return (sums / sizes)[:, :, labels].view(images.shape)


if __name__ == "__main__":
    segments = (torch.arange(224)[:, None] // 32) * 7 + torch.arange(224) // 32
    draw("mean", VisibleMean=VisibleMean(), SegmentMean=SegmentMean(segments))
