"""Weighted least squares over rows of shown segments, in one pass of sums, with robust standard errors.

Only sums over rows are kept, so ten thousand take no more memory than a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 1_000  # features
Chunk = tuple[Tensor, Tensor, Tensor]  # rows (n, S), outputs (n, T), weights (n,), all float64


class Fit(NamedTuple):
    """Coefficients (T, S), intercepts (T,) and weighted R² (T,) of one regression per target.

    Coefficients are inverse @ sum(weight * (row - center) * output), up to a constant.
    """

    coefficients: Tensor
    intercept: Tensor
    r2: Tensor
    inverse: Tensor
    center: Tensor


class Moments:
    """The weighted sums of rows and outputs that a regression needs."""

    def __init__(self, n_features: int, n_targets: int) -> None:
        size = 1 + n_features + n_targets  # of the vector (1, row, outputs)
        self.n_features, self.n_targets = n_features, n_targets
        self.features = slice(1, 1 + n_features)
        self.targets = slice(1 + n_features, size)
        self.products = torch.zeros(size, size, dtype=torch.double)

    def add(self, rows: Tensor, outputs: Tensor, weights: Tensor) -> None:
        table = torch.cat([torch.ones(len(rows), 1, dtype=torch.double), rows, outputs], 1)
        self.products += (table * weights[:, None]).T @ table

    def plus(self, other: Moments, scale: float) -> Moments:
        total = Moments(self.n_features, self.n_targets)
        total.products = self.products + scale * other.products
        return total

    @property
    def weight(self) -> float:
        return float(self.products[0, 0])

    def mean(self, part: slice) -> Tensor:
        return self.products[0, part] / self.products[0, 0]

    def centred(self) -> Tensor:
        """The products of deviations from the mean."""
        first = self.products[0]
        return self.products - first[:, None] * first / first[0]


def ridge(moments: Moments, alpha: float) -> Fit:
    """Fit with an intercept, penalising coefficients by `alpha` (>= 0).

    As `sklearn.linear_model.Ridge(alpha).fit(..., sample_weight=weights)`: the intercept is not penalised.
    """
    features, targets, centred = moments.features, moments.targets, moments.centred()
    inverse = invert(centred[features, features] + alpha * torch.eye(moments.n_features, dtype=torch.double))
    coefficients = (inverse @ centred[features, targets]).T
    center = moments.mean(features)
    intercept = moments.mean(targets) - coefficients @ center
    return Fit(coefficients, intercept, r2(moments, coefficients, intercept), inverse, center)


def r2(moments: Moments, coefficients: Tensor, intercept: Tensor) -> Tensor:
    """Return the weighted R² (T,): 1 - residual / total; of a constant output 1 if it is met, else 0."""
    targets = moments.targets
    faults = torch.cat([-intercept[:, None], -coefficients, torch.eye(len(intercept))], 1).double()
    residual = ((faults @ moments.products) * faults).sum(1)
    total = moments.centred()[targets, targets].diagonal()
    rounding = 1e-13 * moments.products.diagonal()[targets]  # of sums that should cancel
    met = (residual <= rounding).double()
    return torch.where(total > rounding, 1 - residual.clamp(min=0) / total.clamp(min=1e-300), met)


def invert(normal: Tensor) -> Tensor:
    """Return the inverse; the pseudo-inverse where rows are too few to tell segments apart.

    Above `LARGE` features by Cholesky, in a seventh of the time, where that is as safe.
    """
    if len(normal) > LARGE:
        factor, failed = torch.linalg.cholesky_ex(normal)
        pivots = factor.diagonal()
        if not failed and pivots.min() > 1e-5 * pivots.max():  # so a condition number up to about 1e10
            return torch.cholesky_inverse(factor)
    return torch.linalg.pinv(normal, hermitian=True, rtol=1e-11)


def standard_errors(chunks: Iterable[Chunk], fit: Fit, per: int = 1) -> Tensor:
    """Return the standard errors (T, S) of coefficients, heteroscedasticity-consistent (White 1980, HC1).

    `per` neighbouring rows were drawn together and count as one observation (a clustered sandwich). NaN where
    rows are too few to say.
    """
    spread, count = torch.zeros_like(fit.coefficients), 0
    for rows, outputs, weights in chunks:
        residual = outputs - fit.intercept - rows @ fit.coefficients.T
        influence = (rows - fit.center) @ fit.inverse  # (n, S)
        for target, errors in enumerate((residual * weights[:, None]).T):
            parts = influence * errors[:, None]
            spread[target] += parts.view(-1, per, parts.shape[1]).sum(1).square().sum(0)
        count += len(rows) // per
    left = max(count - fit.coefficients.shape[1] // per - 1, 0)
    return (spread * count / left).sqrt() if left else torch.full_like(spread, torch.nan)
