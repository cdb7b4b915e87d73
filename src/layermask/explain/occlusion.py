"""Occlusion: a window slides over the picture, and what it hides is missed or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.explain.asking import Ask, Plan, Segments
from layermask.explain.explainer import Explainer

Sizes = int | tuple[int, ...]


@dataclass(frozen=True)
class Occlusion(Explainer):
    """The mean of f(all shown) - f(window hidden) over the windows on a pixel (Zeiler & Fergus 2014).

    `sliding_window_shapes` and `strides` in pixels, one number or one per spatial axis, as in captum; the
    last window of a row may reach over the edge. Scores are those of pixels, or means over a feature_mask.
    """

    sliding_window_shapes: Sizes = 32
    strides: Sizes = 8

    name: ClassVar[str] = "occlusion"
    needs_segments: ClassVar[bool] = False

    def cost(self, segments: Segments) -> int:
        return len(list(self._windows(tuple(segments.labels.shape))))

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> Plan:
        size = tuple(segments.labels.shape)
        windows = list(self._windows(size))
        hidden = lambda start, stop: _masks(windows[start:stop], size, segments.device)  # noqa: E731
        answers = yield Ask(len(windows), hidden)
        lost, covered = torch.zeros(len(targets), *size, dtype=torch.double), torch.zeros(size)
        for window, value in zip(windows, answers.values, strict=True):
            lost[(slice(None), *window)] += (prediction - value).view(-1, *[1] * len(size))
            covered[window] += 1
        return {"scores": segments.mean(lost / covered.clamp(min=1)), "n_samples": len(windows)}

    def _windows(self, size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        shape = _per_axis("sliding_window_shapes", self.sliding_window_shapes, size)
        steps = _per_axis("strides", self.strides, size)
        axes = []
        for length, wide, step in zip(size, shape, steps, strict=True):
            if step > wide:
                raise InputError(f"strides {step} is over the window's {wide} pixels: some would be left out")
            count = 1 + math.ceil(max(length - wide, 0) / step)
            axes.append([slice(i * step, min(i * step + wide, length)) for i in range(count)])
        return list(product(*axes))


def _per_axis(name: str, sizes: Sizes, image: tuple[int, ...]) -> tuple[int, ...]:
    every = (sizes,) * len(image) if isinstance(sizes, int) else tuple(sizes)
    if len(every) != len(image) or min(every) < 1:
        raise InputError(f"{name} is {sizes} for an image {image}: give one number above 0, or one per axis")
    return every


def _masks(windows: list[tuple[slice, ...]], size: tuple[int, ...], device: torch.device) -> Tensor:
    visible = torch.ones(len(windows), 1, *size, dtype=torch.bool)
    for mask, window in zip(visible, windows, strict=True):
        mask[(0, *window)] = False
    return visible.to(device)
