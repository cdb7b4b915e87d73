"""Bootstrap confidence intervals over images (Efron 1979): percentiles of a statistic of resampled images.

A resample is a row of weights, how often each image was drawn; a statistic takes many rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.explain.sampling import generator

Statistic = Callable[[Tensor], Tensor]  # weights (B, N) -> (B, *shape)
_ROOM = 2**22  # weights made at a time: 32 MiB


class Estimate(NamedTuple):
    """A number with the bounds of its bootstrap interval over images: floats, or tensors for many numbers."""

    value: Any
    low: Any
    high: Any

    def at(self, *index: int) -> Estimate:
        """Return one of many numbers, or a row of them."""
        return Estimate(*(part[index] for part in self))

    def each(self) -> list[Estimate]:
        """Return the numbers of a row one by one, in floats."""
        return [Estimate(*numbers) for numbers in zip(*(part.tolist() for part in self), strict=True)]

    def record(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {name: part.tolist() for name, part in self._asdict().items()}


@checked(
    statistic=partial(kinds.function, inputs=1),
    n_images=kinds.count,
    level=partial(kinds.number, above=0, below=1),
    n_resamples=kinds.count,
    seed=kinds.seed,
    center=kinds.flag,
)
def bootstrap(
    statistic: Statistic,
    n_images: int,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
    center: bool = False,
) -> Estimate:
    """Return `statistic(weights (B, N)) -> (B, *shape)` of N images, with its bounds over resamples of them.

    Differences are paired when one statistic computes both sides from the same weights. NaN is left out.
    `center` shifts the resamples to have their mean at the statistic of the images themselves: for what
    repeated images lower, as an entropy.

    Raises:
        InputError: there are no images, or `level` or `n_resamples` has no such value.
    """
    drawn = torch.cat([statistic(weights) for weights in resamples(n_images, n_resamples, seed)])
    whole = statistic(torch.ones(1, n_images, dtype=torch.float64))
    if center:
        drawn = drawn + whole - drawn.nanmean(0)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype, device=drawn.device)
    return Estimate(whole[0], *drawn.nanquantile(tails, dim=0))


def resamples(n_images: int, n_resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield weights (B, N) float64, rows of whole numbers that sum to N, `n_resamples` rows in all."""
    size = max(1, min(n_resamples, _ROOM // n_images))
    random = generator(seed, 0)
    for start in range(0, n_resamples, size):
        count = min(size, n_resamples - start)
        drawn = torch.randint(n_images, (count, n_images), generator=random)
        ones = torch.ones(count, n_images, dtype=torch.float64)
        yield torch.zeros_like(ones).scatter_add_(1, drawn, ones)


@checked(values=kinds.values, weights=kinds.optional(partial(kinds.values, ndim=2, finite=True)))
def average(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over images of values (N, *shape): (*shape), or (B, *shape) for weights (B, N)."""
    values = values.double()
    if weights is None:
        return values.mean(0)
    shape = values.shape[1:]
    sums = weights.to(values.device) @ values.reshape(len(values), -1)
    return (sums / weights.to(values.device).sum(1, keepdim=True)).view(len(weights), *shape)


@checked(values=kinds.values)
def mean_interval(values: Tensor, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the mean over images of values (N, *shape), with its bounds."""
    return bootstrap(
        lambda weights: average(values, weights),
        len(values),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )


UNKNOWN = Estimate(torch.nan, torch.nan, torch.nan)


def means(values: Tensor) -> list[Estimate]:
    """Return the means over images of values (N, K); unknown where there are no images.

    The resamples are the same at every call with as many images: differences of two means are paired.
    """
    return mean_interval(values).each() if len(values) else [UNKNOWN] * values.shape[1]


def differences(values: Tensor) -> list[Estimate]:
    """Return the mean differences (K - 1) of values (N, K) to those of the first, image by image."""
    return means(values[:, 1:] - values[:, :1])


def roots(squares: Tensor) -> list[Estimate]:
    """Return the roots of the means over images of squares (N, K); unknown where there are no images."""
    if not len(squares):
        return [UNKNOWN] * squares.shape[1]
    return bootstrap(lambda weights: average(squares, weights).sqrt(), len(squares)).each()
