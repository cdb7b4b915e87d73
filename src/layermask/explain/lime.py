"""LIME: a linear surrogate of the model around one picture, fitted on random subsets of its segments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
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

    kernel_width: float = 0.25
    alpha: float = 1.0

    name: ClassVar[str] = "LIME"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = partial(kinds.number, above=0)
        check_fields(self, kernel_width=positive, alpha=positive)

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
        return _Coins(self, n_segments)

    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        return ridge(moments, self.alpha)


class _Coins(Design):
    """Every segment of every row shown or hidden by the toss of a coin, but for row 0, which shows all."""

    def __init__(self, lime: Lime, n_segments: int) -> None:
        super().__init__(chunk_sizes(lime.n_samples))
        self.lime, self.n_segments = lime, n_segments

    def rows(self, index: int) -> Tensor:
        shape = (self.sizes[index], self.n_segments)
        rows = torch.randint(
            0, 2, shape, generator=generator(self.lime.seed, index), dtype=torch.uint8
        ).bool()
        if index == 0:
            rows[0] = True
        return rows

    def weights(self, index: int, rows: Tensor) -> Tensor:
        return self.lime.weights(rows)
