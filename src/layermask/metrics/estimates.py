"""Means over images with their 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layermask.metrics.bootstrap import Statistic, average, bootstrap
from layermask.render.table import Estimate

UNKNOWN = Estimate(torch.nan, torch.nan, torch.nan)


def estimates(statistic: Statistic, images: int, count: int, center: bool = False) -> list[Estimate]:
    """Return the `count` numbers of a statistic (see `metrics.bootstrap`); unknown where there are no images.

    The resamples are the same at every call with as many images: differences of two means are paired.
    `center`: as `bootstrap` has it.
    """
    if not images:
        return [UNKNOWN] * count
    values = statistic(torch.ones(1, images, dtype=torch.float64))[0]
    low, high = bootstrap(statistic, images, center=center)
    return [Estimate(*numbers) for numbers in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]


def means(values: Tensor) -> list[Estimate]:
    """Return the means over images of values (N, K)."""
    return estimates(lambda weights: average(values, weights), len(values), values.shape[1])


def differences(values: Tensor) -> list[Estimate]:
    """Return the mean differences (K - 1) of values (N, K) to those of the first, image by image."""
    return means(values[:, 1:] - values[:, :1])


def roots(squares: Tensor) -> list[Estimate]:
    """Return the roots of the means over images of squares (N, K)."""
    return estimates(lambda weights: average(squares, weights).sqrt(), len(squares), squares.shape[1])


def column(numbers: Sequence[Estimate]) -> list[float]:
    """Return the numbers without their intervals."""
    return [each.value for each in numbers]
