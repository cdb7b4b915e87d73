"""Occlusion: a window slides over the picture, and scores are the loss while it hides a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.refusal import warn
from layermask.errors import InputError
from layermask.explain.explainer import Explainer
from layermask.explain.query_plan import Query, QueryPlan, Segments

Sizes = int | tuple[int, ...]
MaybeSizes = Annotated[Sizes | None, kinds.optional(kinds.sizes)]


@dataclass(frozen=True)
class Occlusion(Explainer):
    """The mean of f(all shown) - f(window hidden) over the windows on a pixel (Zeiler & Fergus 2014).

    `sliding_window_shapes` and `strides` in pixels, one number or one per spatial axis, as in captum; the
    last window of a row may reach over the edge. By default windows of 32 pixels, or a quarter of the image
    where that is less, move by a quarter of their size. Scores are those of pixels, or means over a
    feature_mask.
    """

    sliding_window_shapes: MaybeSizes = None
    strides: MaybeSizes = None

    name: ClassVar[str] = "occlusion"
    needs_segments: ClassVar[bool] = False

    def cost(self, segments: Segments) -> int:
        return len(list(self._windows(tuple(segments.labels.shape))))

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        size = tuple(segments.labels.shape)
        windows = list(self._windows(size))
        if len(windows) == 1:
            warn(
                f"sliding_window_shapes is {self.sliding_window_shapes} for an image {size}: 1 window hides "
                "all of it, and every pixel gets the same score; give a smaller one"
            )
        hidden = lambda start, stop: _masks(windows[start:stop], size, segments.device)  # noqa: E731
        answers = yield Query(len(windows), hidden)
        lost, covered = torch.zeros(len(targets), *size, dtype=torch.double), torch.zeros(size)
        for window, value in zip(windows, answers.values, strict=True):
            lost[(slice(None), *window)] += (prediction - value).view(-1, *[1] * len(size))
            covered[window] += 1
        return {"scores": segments.mean(lost / covered.clamp(min=1)), "n_samples": len(windows)}

    def _windows(self, size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        usual = tuple(min(32, max(1, length // 4)) for length in size)
        shape = _per_axis("sliding_window_shapes", self.sliding_window_shapes, size, usual)
        steps = _per_axis("strides", self.strides, size, tuple(max(1, wide // 4) for wide in shape))
        axes = []
        for length, wide, step in zip(size, shape, steps, strict=True):
            if step > wide:
                raise InputError(f"strides {step} is over the window's {wide} pixels: some would be left out")
            count = 1 + math.ceil(max(length - wide, 0) / step)
            axes.append([slice(i * step, min(i * step + wide, length)) for i in range(count)])
        return list(product(*axes))


def _per_axis(
    name: str, sizes: Sizes | None, image: tuple[int, ...], usual: tuple[int, ...]
) -> tuple[int, ...]:
    sizes = usual if sizes is None else sizes
    every = (sizes,) * len(image) if isinstance(sizes, int) else sizes
    if len(every) != len(image):
        raise InputError(f"{name} is {sizes} for an image {image}: give one number above 0, or one per axis")
    return every


def _masks(windows: list[tuple[slice, ...]], size: tuple[int, ...], device: torch.device) -> Tensor:
    visible = torch.ones(len(windows), 1, *size, dtype=torch.bool)
    for mask, window in zip(visible, windows, strict=True):
        mask[(0, *window)] = False
    return visible.to(device)
