"""Segmenters: from a picture to an (H, W) int64 map of labels 0, 1, 2, ... without gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layermask.errors import InputError, require

Segmenter = Callable[[Any], Tensor]


def relabel(labels: Any) -> Tensor:
    """Return a label map (*S) of any integers as int64 labels 0..n-1, in the same order.

    Explainers index features by label: a gap or an offset of one leaves a feature that hides nothing.
    """
    labels = torch.as_tensor(labels)
    if labels.ndim < 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"a label map is integers of shape (H, W), got {labels.dtype} of {tuple(labels.shape)}"
        )
    return torch.unique(labels, return_inverse=True)[1]


@dataclass(frozen=True)
class Grid:
    """Squares of `size` pixels; those at the right and bottom edge may be smaller."""

    size: int = 16

    def __call__(self, image: Any) -> Tensor:
        """Return the labels for a picture (H, W, C), (H, W) or (..., H, W) tensor: only H and W matter."""
        height, width = _extent(image)
        if self.size < 1:
            raise InputError(f"grid cells of {self.size} pixels: give 1 or more")
        rows = torch.arange(height) // self.size
        columns = torch.arange(width) // self.size
        return rows[:, None] * (int(columns[-1]) + 1) + columns


@dataclass(frozen=True)
class Slic:
    """About `n_segments` compact superpixels (SLIC in scikit-image)."""

    n_segments: int = 100
    compactness: float = 10.0
    sigma: float = 0.0

    def __call__(self, image: Any) -> Tensor:
        segmentation = require("skimage.segmentation", "cli")
        axis = -1 if image.ndim == 3 else None
        labels = segmentation.slic(
            image, self.n_segments, self.compactness, sigma=self.sigma, start_label=0, channel_axis=axis
        )
        return relabel(labels)


@dataclass(frozen=True)
class Quickshift:
    """Superpixels of any shape (quickshift in scikit-image); the defaults are those of the LIME package."""

    kernel_size: float = 4
    max_dist: float = 200
    ratio: float = 0.2
    seed: int = 0

    def __call__(self, image: Any) -> Tensor:
        segmentation = require("skimage.segmentation", "cli")
        picture = image if image.ndim == 3 else image[..., None].repeat(3, -1)
        labels = segmentation.quickshift(
            picture, kernel_size=self.kernel_size, max_dist=self.max_dist, ratio=self.ratio, rng=self.seed
        )
        return relabel(labels)


SEGMENTERS: dict[str, Callable[..., Segmenter]] = {"grid": Grid, "slic": Slic, "quickshift": Quickshift}


def segmenter(text: str) -> Segmenter:
    """Return the segmenter named "grid", "slic" or "quickshift"; "grid:32" sets its first parameter."""
    name, colon, number = text.partition(":")
    if name not in SEGMENTERS:
        known = ", ".join(SEGMENTERS)
        raise InputError(f"unknown segments {name!r}: choose from {known}, or give a label-map file")
    try:
        return SEGMENTERS[name](int(number)) if colon else SEGMENTERS[name]()
    except ValueError:
        raise InputError(f"segments {text!r}: expected a whole number after the colon") from None


def _extent(image: Any) -> tuple[int, int]:
    """Return (height, width): tensors are (..., H, W), arrays are (H, W) or (H, W, C)."""
    shape = tuple(image.shape)
    if len(shape) < 2:
        raise InputError(f"a picture has 2 dims or more, got shape {shape}")
    return shape[-2:] if isinstance(image, Tensor) else shape[:2]
