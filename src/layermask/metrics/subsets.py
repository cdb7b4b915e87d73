"""Random subsets of segments hidden: does the sum of their scores foretell how the answer changes?

Arguments and results are those of `flipping`. The subsets depend on the seed and the number of segments
alone, so every removal operator and attribution is asked the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import Answers, QueryPlan, Segments
from layermask.explain.sampling import correlation, generator
from layermask.metrics.measure import measure, stacked

Removing = Callable[..., Any]


@checked(
    n_samples=kinds.count,
    probability=partial(kinds.number, above=0, below=1),
    normalize=kinds.flag,
    seed=kinds.seed,
)
def infidelity(
    removal: Removing,
    images: Tensor,
    attributions: Sequence[Attribution],
    *,
    n_samples: int = 200,
    probability: float = 0.5,
    normalize: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Return the mean squared error of the summed scores of a hidden subset as the answer's loss, (N, T).

    E[(Σ_hidden φ − (f(all) − f(without)))²], Yeh et al. 2019 (arXiv 1901.09392, definition 2.1), with
    perturbations that hide each segment with `probability`. `normalize` first scales the scores by the
    factor that fits best, for attributions that are not in units of the output.
    """

    def planner(segments: Segments, scores: Tensor) -> QueryPlan:
        shown = _bernoulli(segments.count, 1 - probability, n_samples, seed)
        foretold, lost = _pair(shown, scores, (yield segments.show(shown)))
        return (_fitted(foretold, lost) if normalize else foretold).sub(lost).square().mean(0)

    return stacked(measure(planner, removal, images, attributions, n_samples + 1, **settings))


def sensitivity_n(
    removal: Removing,
    images: Tensor,
    attributions: Sequence[Attribution],
    *,
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    n_samples: int = 100,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Return the correlation of summed scores and lost answer over subsets of n segments, (N, T).

    The mean over n = `shares` of the segments, 1 to all but one (Ancona et al. 2018, arXiv 1711.06104, with
    hidden segments for features set to 0); see `sensitivity_curve` for each n.
    """
    return sensitivity_curve(
        removal, images, attributions, shares=shares, n_samples=n_samples, seed=seed, **settings
    ).mean(-1)


@checked(
    shares=partial(kinds.numbers, above=0, below=1), n_samples=partial(kinds.count, low=2), seed=kinds.seed
)
def sensitivity_curve(
    removal: Removing,
    images: Tensor,
    attributions: Sequence[Attribution],
    *,
    shares: Sequence[float],
    n_samples: int = 100,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Return Pearson's correlations of sensitivity-n at each of `shares` (K), (N, T, K); see `sensitivity_n`.

    0 where scores or answers are the same for all subsets, as a correlation is then not defined.
    """

    def planner(segments: Segments, scores: Tensor) -> QueryPlan:
        shown = _all_but(segments.count, tuple(shares), n_samples, seed)
        pair = _pair(shown, scores, (yield segments.show(shown)))
        return correlation(*(each.unflatten(0, (len(shares), -1)) for each in pair)).T

    count = len(shares) * n_samples + 1
    return stacked(measure(planner, removal, images, attributions, count, **settings))


# Rows of shown segments, all of them in the first. Cached, so that images of equally many segments share
# them: with pixels for segments they are larger than the images.


@lru_cache(4)
def _bernoulli(segments: int, probability: float, n_samples: int, seed: int) -> Tensor:
    """Draw (1 + n_samples, segments) bool, each segment shown with `probability`."""
    draws = torch.rand(n_samples, segments, generator=generator(seed, 0))
    return torch.cat([torch.ones(1, segments, dtype=torch.bool), draws < probability])


@lru_cache(4)
def _all_but(segments: int, shares: tuple[float, ...], n_samples: int, seed: int) -> Tensor:
    """Draw (1 + K · n_samples, segments) bool, with K shares of the segments hidden."""
    numbers = [min(max(1, round(share * segments)), segments - 1) for share in shares]
    whole = torch.ones(1, segments, dtype=torch.bool)
    return torch.cat([whole, *(_without(segments, number, n_samples, seed) for number in numbers)])


def _without(segments: int, number: int, n_samples: int, seed: int) -> Tensor:
    draws = torch.rand(n_samples, segments, generator=generator(seed, number))
    return draws.argsort(1).argsort(1) >= number


def _pair(shown: Tensor, scores: Tensor, answers: Answers) -> tuple[Tensor, Tensor]:
    """Return the summed scores and the losses of the hidden subsets, each (n_samples, T)."""
    foretold = torch.cat([(~part).double() @ scores.T for part in shown[1:].split(100)])
    return foretold, answers.values[0] - answers.values[1:]


def _fitted(foretold: Tensor, lost: Tensor) -> Tensor:
    scale = (foretold * lost).mean(0) / foretold.square().mean(0).clamp_min(1e-300)
    return foretold * scale
