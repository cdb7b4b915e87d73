"""LIME: a linear surrogate of the model around one picture, fitted on random subsets of its segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments.kinds import Positive
from layermask.explain.regression import Fit, Moments, ridge
from layermask.explain.sampling import chunk_sizes, generator
from layermask.explain.surrogate import Design, Surrogate


@dataclass(frozen=True)
class Lime(Surrogate):
    """LIME for images (Ribeiro et al. 2016), as the package lime 0.2 fits it.

    Rows of segments shown or hidden are drawn with `seed`, the same for every removal, row 0 showing all.
    They are weighted by exp(-d²/kernel_width²)^½, d their cosine distance to row 0; the surrogate is a ridge
    regression with penalty `alpha`.
    """

    kernel_width: Positive = 0.25
    alpha: Positive = 1.0

    name: ClassVar[str] = "LIME"

    def rows(self, n_segments: int) -> Tensor:
        """Return the (n_samples, n_segments) bool rows, True = shown: they depend on seed and sizes only."""
        design = self.design(n_segments)
        return torch.cat([design.rows(index) for index in range(len(design.sizes))])

    def weights(self, rows: Tensor) -> Tensor:
        """Return the (n_samples,) float64 weights of bool rows."""
        # The cosine of a 0/1 row with the row of ones is the root of its share of ones.
        distance = 1 - rows.double().mean(1).sqrt()
        return (-(distance**2) / self.kernel_width**2).exp().sqrt()

    def design(self, n_segments: int) -> Design:
        """Every segment of every row is shown or hidden by the toss of a coin; row 0 shows all."""
        sizes = chunk_sizes(self.n_samples)

        def rows(index: int) -> Tensor:
            shape, draw = (sizes[index], n_segments), generator(self.seed, index)
            drawn = torch.randint(0, 2, shape, generator=draw, dtype=torch.uint8).bool()
            if index == 0:
                drawn[0] = True
            return drawn

        return Design(sizes, rows, lambda index, rows: self.weights(rows))

    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        return ridge(moments, self.alpha)
