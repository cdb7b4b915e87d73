"""Inputs for the twins (`twins.py`), and what it is to agree with them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from twins import Windows

from layermask import Masked
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings

SIZES = {1: (9,), 2: (6, 7), 3: (4, 5, 4)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blotches(n: int, share: float = 0.35, size: tuple[int, ...] | None = None, seed: int = 0) -> Tensor:
    """Two masks of n dims: a random one, and one with a corner visible."""
    size = size or SIZES[n]
    masks = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed)) < share
    masks[1] = False
    masks[1, 0][tuple(slice(0, s // 2) for s in size)] = True
    return masks


def pair(x: Tensor, visible: Tensor, **settings: object) -> Masked:
    """A pair with NaN wherever it is hidden: whatever a rule does, it may not read that."""
    masked = Masked(torch.where(visible, x, math.nan), visible)
    masked.forward_pass = ForwardPass(Settings(**settings))  # type: ignore[arg-type]
    return masked


def agrees(ours: Masked, theirs: list[tuple[np.ndarray, np.ndarray]], tolerance: float = 1e-12) -> None:
    """Assert that values and masks are as the twins of the images say."""
    for image, (value, visible) in enumerate(theirs):
        shown = ours.visible.expand(ours.value.shape)[image].numpy()
        assert (shown == visible).all(), f"image {image}: mask"
        wrong = np.abs(np.where(shown, ours.value[image].numpy() - value, 0)).max()
        assert wrong <= tolerance, f"image {image}: values differ by {wrong:.1e}"


def per_image(x: Tensor, visible: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (a.numpy(), m[0].numpy()) for a, m in zip(x, visible.expand(len(x), *visible.shape[1:]), strict=True)
    ]


def windows_of(
    kernel: tuple, stride: tuple, padding: tuple | str, dilation: tuple, ceil: bool = False
) -> Windows:
    if padding == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return Windows(
            kernel, stride, tuple(t // 2 for t in total), tuple(t - t // 2 for t in total), dilation
        )
    sides = (0,) * len(kernel) if padding == "valid" else padding
    return Windows(kernel, stride, sides, sides, dilation, ceil)
