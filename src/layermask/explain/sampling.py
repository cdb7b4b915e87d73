"""Random rows of shown segments, in chunks. Each has its own seed, so any chunk can be drawn again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.kinds import Count, Seed
from layermask.arguments.refusal import warn
from layermask.explain.attribution import reliability
from layermask.explain.explainer import Explainer

CHUNK = 256  # rows; independent of the batch size, so that results are


def generator(seed: int, index: int) -> torch.Generator:
    """The random numbers of chunk `index`; on the CPU, so that all devices agree."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**32)


def chunk_sizes(n_samples: int) -> list[int]:
    return [min(CHUNK, n_samples - start) for start in range(0, n_samples, CHUNK)]


def warn_if_few(name: str, n_samples: int, advised: int, n_segments: int) -> None:
    if n_samples < min(advised, 2**n_segments):
        warn(
            f"{name}: n_samples is {n_samples} for {n_segments} segments, too few to tell them apart: give "
            f"{advised} or more, or fewer segments"
        )


@dataclass(frozen=True)
class SamplingExplainer(Explainer):
    """`n_samples` masks at most, and fewer by either of two rules.

    `converge`, a tolerance: stop when 1 minus the rank correlation of the scores with those of one chunk of
    masks before stays below it. `precision`: stop when the scores of every target are settled, that is when
    `Attribution.reliability`, the correlation to expect with the scores of another seed, reaches it.
    """

    n_samples: Count = 1000
    seed: Seed = 0
    converge: Annotated[float | None, kinds.optional(partial(kinds.number, low=0, below=1))] = None
    _: dataclasses.KW_ONLY
    precision: Annotated[float | None, kinds.optional(partial(kinds.number, low=0, high=1))] = None

    def stopping(self) -> Stopping:
        return Stopping(self.converge, self.precision)


class Stopping:
    """Whether enough masks were asked: by the order of the scores, by their standard errors, or never."""

    def __init__(self, converge: float | None, precision: float | None) -> None:
        self.stability, self.precision = RankStability(converge), precision
        self.possible = converge is not None or precision is not None

    def reached(self, scores: Tensor, stderr: Tensor | None) -> bool:
        """Take scores and their standard errors (T, S), None while nothing was drawn at random."""
        if self.stability.reached(scores):
            return True
        if self.precision is None or stderr is None:
            return False
        return bool((reliability(scores, stderr) >= self.precision).all())


class RankStability:
    """Whether the order of the scores is stable, by Spearman's correlation with the order before."""

    def __init__(self, tolerance: float | None) -> None:
        self.tolerance, self.last, self.calm = tolerance, None, 0

    def reached(self, scores: Tensor) -> bool:
        """Take scores (T, S). True once every target's order agreed with the one before twice in a row."""
        if self.tolerance is None:
            return False
        ranks = scores.argsort(1).argsort(1).double()
        last, self.last = self.last, ranks
        if last is None:
            return False
        agrees = correlation(ranks, last).min() >= 1 - self.tolerance
        self.calm = self.calm + 1 if agrees else 0
        return self.calm >= 2


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation along the second axis; 0 where one is flat, as it is not defined there."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    defined = (a.norm(dim=1) > 1e-12) & (b.norm(dim=1) > 1e-12)
    return torch.where(defined, (a * b).sum(1) / norms.clamp_min(1e-300), 0.0)
