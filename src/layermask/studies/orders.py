"""The orders in which segments are hidden, and the saliency that two of them follow."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from layermask.data.source import Sample
from layermask.errors import InputError
from layermask.segment.labels import sum_over
from layermask.zoo.loaded import Loaded
from layermask.zoo.outputs import class_scores

ORDERS = {
    "random": "a new order for every picture and segmentation, the same for every removal",
    "salient-first": "the segments of the largest sum of saliency first",
    "salient-last": "the segments of the smallest sum of saliency first",
}
MAPS, GRADIENT, UNUSED = "saliency map", "input gradient", "not used"
"""What salient orders follow."""


def random_order(count: int, sample: Sample, segmentation: str, seed: int) -> Tensor:
    """Return segments (S,) in an order that is the picture's own, whichever pictures were done before."""
    number = own_seed(sample, segmentation, seed)
    return torch.randperm(count, generator=torch.Generator().manual_seed(number))


def own_seed(sample: Sample, segmentation: str, seed: int) -> int:
    """Return a seed that is the picture's and the segmentation's own, whichever others were done before."""
    text = f"{seed}/{segmentation}/{sample.name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[3:7], "big")


def salient_order(labels: Tensor, saliency: Tensor, first: bool) -> Tensor:
    """Return segments (S,) by the sum of saliency (H, W) over each, the most salient first or last."""
    return sum_over(labels, saliency.double()).argsort(descending=first, stable=True)


def saliency_map(sample: Sample, size: tuple[int, int], loaded: Loaded) -> Tensor:
    """Return the saliency (H, W) of what the model sees, by the resize and crop of the picture."""
    grey = replace(loaded.preprocessing, mean=(0.0,), std=(1.0,), order="RGB")
    return grey(sample.load_saliency(size))[0, 0]


def gradient(loaded: Loaded, x: Tensor, target: int | None = None) -> Tensor:
    """Return the gradient (1, C, H, W) of one of the plain model's scores, by default the largest.

    Raises:
        InputError: the model has none.
    """
    with torch.enable_grad():
        pixels = x.detach().clone().requires_grad_()
        scores = class_scores(loaded.model(pixels), 1)[0]
        score = scores.max() if target is None else scores[target]
        if not score.requires_grad:
            raise InputError(
                f"{loaded.name} has no gradient: leave out the methods and salient orders that need it, or "
                "give the data saliency maps"
            )
        return torch.autograd.grad(score, pixels)[0]


def input_gradient(loaded: Loaded, x: Tensor) -> Tensor:
    """Return the absolute gradient (H, W) of the plain model's largest score, the largest over channels.

    Simonyan et al. 2014, arXiv 1312.6034.
    """
    return gradient(loaded, x)[0].abs().amax(0).float().cpu()
