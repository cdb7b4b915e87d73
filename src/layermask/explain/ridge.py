"""Weighted ridge regression with an intercept, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Fit(NamedTuple):
    """Coefficients (T, S), intercepts (T,) and weighted R² (T,) of one regression per target."""

    coefficients: Tensor
    intercept: Tensor
    r2: Tensor


def ridge(rows: Tensor, outputs: Tensor, weights: Tensor, alpha: float) -> Fit:
    """Fit outputs (N, T) on rows (N, S) with weights (N,), all float64, penalising coefficients by `alpha`.

    As `sklearn.linear_model.Ridge(alpha).fit(..., sample_weight=weights)`: the intercept is not penalised.
    """
    share = (weights / weights.sum())[:, None]
    row_mean, output_mean = (share * rows).sum(0), (share * outputs).sum(0)
    x, y = rows - row_mean, outputs - output_mean
    weighted = weights[:, None] * x
    penalty = alpha * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solution = torch.linalg.solve(weighted.T @ x + penalty, weighted.T @ y)
    return Fit(solution.T, output_mean - row_mean @ solution, _r2(y, x @ solution, weights))


def _r2(y: Tensor, fitted: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - residual / total, of centred y; of a constant y 1 if it is met, else 0, as sklearn does."""
    residual, total = weights @ (y - fitted).square(), weights @ y.square()
    return torch.where(total > 0, 1 - residual / total, (residual == 0).to(total))
