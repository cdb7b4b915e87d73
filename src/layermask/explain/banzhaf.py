"""Banzhaf values, by regression; with another probability than 1/2 the gradient by a relaxed mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments.kinds import Share
from layermask.explain.regression import Fit, Moments, ridge
from layermask.explain.sampling import chunk_sizes, generator
from layermask.explain.surrogate import Design, Surrogate, equal_weights


@dataclass(frozen=True)
class Banzhaf(Surrogate):
    """What a segment adds, on average, to the others when each is shown with `probability`.

    At 1/2 these are the Banzhaf values, the coefficients of the best linear approximation over all subsets
    (Hammer & Holzman 1992). At any p they are the gradient at (p, ..., p) of the multilinear extension, the
    expected output when segment i is shown with probability x_i (Owen 1972): the sound reading of "gradient
    by a relaxed mask". All subsets are listed, and the values exact, where n_samples allows it.
    """

    probability: Share = 0.5

    name: ClassVar[str] = "Banzhaf"

    def design(self, n_segments: int) -> Design:
        listed = n_segments < 60 and 2**n_segments <= self.n_samples
        return self._all_subsets(n_segments) if listed else self._random_subsets(n_segments)

    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        return ridge(moments, 0.0)

    def _random_subsets(self, n_segments: int) -> Design:
        sizes = chunk_sizes(self.n_samples)

        def rows(index: int) -> Tensor:
            drawn = torch.rand(sizes[index], n_segments, generator=generator(self.seed, index))
            return drawn < self.probability

        return Design(sizes, rows, equal_weights)

    def _all_subsets(self, n_segments: int) -> Design:
        """Subset number n shows the segments whose bit of n is set."""
        sizes = chunk_sizes(2**n_segments)

        def rows(index: int) -> Tensor:
            start = sum(sizes[:index])
            numbers = torch.arange(start, start + sizes[index])
            return (numbers[:, None] >> torch.arange(n_segments) & 1).bool()

        def weights(index: int, rows: Tensor) -> Tensor:
            shown = rows.sum(1).double()
            return self.probability**shown * (1 - self.probability) ** (n_segments - shown)

        return Design(sizes, rows, weights, exact=len(sizes))
