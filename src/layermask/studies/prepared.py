"""Object masks as the model sees the picture."""

from __future__ import annotations

from torch import Tensor

from layermask.data.source import Sample
from layermask.zoo.loaded import Loaded


def object_mask(sample: Sample, size: tuple[int, int], loaded: Loaded) -> Tensor:
    """Return the object (H, W) bool, resized and cropped as the picture, by nearest neighbour.

    `size`: (width, height) of the picture. What a crop pads is no object.
    """
    background = sample.load_mask(size).point(lambda value: 255 - value)
    return ~loaded.preprocessing.mask(background)[0, 0]
