"""Segmenters: from a picture to an (H, W) int64 map of labels 0, 1, 2, ... without gaps.

A picture is an array (H, W) or (H, W, C), a tensor (..., H, W), a Pillow image, or the path of a file.
`valid` (H, W) bool, or "nan" for what holds no NaN, says which pixels may be visible: the others are in no
segment, of label -1, and what they hold changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.kinds import Count, Positive
from layermask.data.images import load_image
from layermask.errors import InputError, import_optional
from layermask.io import demo
from layermask.io.pixels import bordered
from layermask.segment.labels import relabel

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Int64, Shaped

Segmenter = Callable[[Any], Tensor]
Box = tuple[int, int, int, int]
NotNegative = Annotated[float, partial(kinds.number, low=0)]
Pixels = Annotated[float, partial(kinds.number, low=0, high=1000)]
"""The width of a blur; one far wider than pictures would take for ever."""


def _box(name: str, value: Any) -> tuple[int, ...]:
    box = kinds.several(name, value, kinds.index)
    if len(box) != 4:
        raise InputError(f"{name} holds {box}: give left, top, right, bottom")
    return box


@dataclass(frozen=True)
class Grid(Checked):
    """Cells of `size` pixels, one number or (height, width); those at the far edges may be smaller."""

    size: Annotated[int | tuple[int, ...], kinds.sizes] = 16

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        """Return the labels; of the picture only height and width matter."""
        size = _extent(image)
        return self.labels(size) if valid is None else relabel(self.labels(size), _shown(image, valid))

    def labels(self, shape: tuple[int, ...]) -> Int64[Tensor, "*S"]:
        """Return the labels of a signal, picture or volume of this shape."""
        shape = kinds.several("shape", shape, kinds.count)
        sizes = (self.size,) * len(shape) if isinstance(self.size, int) else self.size
        if len(sizes) != len(shape):
            raise InputError(f"size is {self.size} for a picture {shape}: give one number, or one per axis")
        labels = torch.zeros((), dtype=torch.int64)
        for length, size in zip(shape, sizes, strict=True):
            labels = labels[..., None] * -(-length // size) + torch.arange(length) // size
        return labels


@dataclass(frozen=True)
class Slic(Checked):
    """About `n_segments` compact superpixels (Achanta et al. 2012, in scikit-image)."""

    n_segments: Count = 100
    compactness: Positive = 10.0
    sigma: Pixels = 0.0

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        (pixels, shown), options = _pixels(image, valid), dataclasses.asdict(self)
        mask = None if shown is None else shown.numpy()
        labels = _skimage().slic(pixels, start_label=1, channel_axis=-1, mask=mask, **options)
        return relabel(labels, shown)


@dataclass(frozen=True)
class Quickshift(Checked):
    """Superpixels of any shape (Vedaldi & Soatto 2008, in scikit-image); defaults of the package lime."""

    kernel_size: Annotated[float, partial(kinds.number, low=1, high=1000)] = 4
    max_dist: NotNegative = 200
    ratio: Annotated[float, partial(kinds.number, low=0, high=1)] = 0.2
    seed: Annotated[int, partial(kinds.seed, high=2**31 - 1)] = 0  # all that scikit-image takes

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        pixels, shown = _pixels(image, valid)
        pixels = pixels.repeat(3, -1) if pixels.shape[2] == 1 else pixels
        in_lab = pixels.shape[2] == 3  # a colour space, which other numbers of channels do not have
        options = {"kernel_size": self.kernel_size, "max_dist": self.max_dist, "ratio": self.ratio}
        labels = _skimage().quickshift(pixels, convert2lab=in_lab, rng=self.seed, **options)
        return relabel(labels, shown)


@dataclass(frozen=True)
class Felzenszwalb(Checked):
    """Regions by graph merging (Felzenszwalb & Huttenlocher 2004, in scikit-image); larger `scale`, fewer."""

    scale: NotNegative = 100.0
    sigma: Pixels = 0.8
    min_size: Annotated[int, partial(kinds.count, low=0)] = 50

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        pixels, shown = _pixels(image, valid)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got image with third dimension")  # which is intended
            labels = _skimage().felzenszwalb(pixels, channel_axis=-1, **dataclasses.asdict(self))
        return relabel(labels, shown)


@dataclass(frozen=True)
class Watershed(Checked):
    """About `markers` basins of the gradient, grown from a lattice of seeds (in scikit-image)."""

    markers: Count = 100
    compactness: NotNegative = 0.0001

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        sobel = import_optional("skimage.filters", "cli").sobel
        pixels, shown = _pixels(image, valid)
        mask = None if shown is None else shown.numpy()
        steep = sobel(pixels / max(abs(pixels).max(), 1e-12), axis=(0, 1)).mean(-1)
        labels = _skimage().watershed(steep, self.markers, mask=mask, compactness=self.compactness)
        return relabel(labels, shown)


@dataclass(frozen=True)
class Boxes(Checked):
    """One segment per box (left, top, right, bottom), later ones over earlier, and one for the rest."""

    boxes: Annotated[tuple[Box, ...], partial(kinds.several, kind=_box)]

    def __call__(self, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
        height, width, *more = _extent(image)
        if more:
            raise InputError(f"boxes are of pictures (H, W), and the image is {tuple(image.shape)}")
        labels = torch.zeros(height, width, dtype=torch.int64)
        for number, box in enumerate(self.boxes, 1):
            left, top, right, bottom = box
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise InputError(
                    f"box {box} is not within the picture of {width}x{height} pixels: give left, top, right, "
                    "bottom"
                )
            labels[top:bottom, left:right] = number
        return relabel(labels, None if valid is None else _shown(image, valid))


def _skimage() -> Any:
    return import_optional("skimage.segmentation", "cli")


def _extent(image: Any) -> tuple[int, ...]:
    """Return (height, width), or the size of a volume (N, C, *S)."""
    if isinstance(image, Tensor) and image.ndim >= 2:
        return tuple(image.shape[2:] if image.ndim > 4 else image.shape[-2:])
    return _array(image).shape[:2]


def _pixels(image: Any, valid: Any) -> tuple[Shaped[np.ndarray, "H W C"], Bool[Tensor, "H W"] | None]:
    """Return the picture as an array (H, W, C), and where it is valid (H, W), None for everywhere.

    Where it is not, the array holds the mean of the rest: scikit-image reads it there too.
    """
    np = import_optional("numpy", "cli")
    pixels, shown = _array(image), None if valid is None else _shown(image, valid)
    if shown is not None:
        inside = shown.numpy()
        pixels = np.where(inside[..., None], pixels, pixels[inside].mean(0)).astype(pixels.dtype)
    if not np.isfinite(pixels).all():
        advice = "give finite values" if valid is not None else 'give finite values, or valid="nan" for NaN'
        raise InputError(f"image of shape {pixels.shape} holds NaN or inf: {advice}")
    return pixels, shown


def _shown(image: Any, valid: Any) -> Bool[Tensor, "H W"]:
    """Return where a picture is valid, (H, W) bool."""
    valid = kinds.valid("valid", valid)
    if isinstance(valid, str):
        shown, size = ~torch.from_numpy(_array(image)).isnan().any(-1), _extent(image)
    else:
        shown, size = valid.cpu(), _extent(image)
    if shown.numel() != math.prod(size) or tuple(shown.shape[-len(size) :]) != size:
        raise InputError(
            f"valid is of shape {tuple(shown.shape)}: give {size}, True for pixels of the picture"
        )
    if not bool(shown.any()):
        raise InputError(
            f"valid of shape {tuple(shown.shape)} is False everywhere: nothing is left to segment"
        )
    return shown.reshape(size)


def _array(image: Any) -> Shaped[np.ndarray, "H W C"]:
    """Return the picture as an array (H, W, C)."""
    np = import_optional("numpy", "cli")

    if isinstance(image, (str, os.PathLike)):
        image = load_image(os.fspath(image))
    if isinstance(image, Tensor):
        image = kinds.values("image", image).detach().cpu().float()
        image = image[0] if image.ndim == 4 and len(image) == 1 else image
        image = image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()
    try:
        pixels = np.asarray(image)
    except Exception:  # nested lists of several lengths, unusual objects
        pixels = np.empty(0)
    if pixels.ndim not in (2, 3) or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise InputError(
            f"image: a picture is (H, W) or (H, W, C), a tensor (C, H, W); got {pixels.dtype} of shape "
            f"{pixels.shape} from a {type(image).__name__}"
        )
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _draw() -> None:
    """Draw the borders of each segmenter's segments into the bundled photograph."""
    picture = demo.pixels(demo.photograph())
    kinds = (
        Grid(),
        Slic(),
        Quickshift(),
        Felzenszwalb(),
        Watershed(),
        Boxes(((10, 10, 90, 120), (60, 80, 200, 200))),
    )
    demo.draw("segmenters", {type(each).__name__: bordered(picture, each(picture.numpy())) for each in kinds})


if __name__ == "__main__":
    _draw()
