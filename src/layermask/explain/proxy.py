"""Shapley values through a proxy: a Gaussian process over subsets, whose Shapley values have a closed form.

Rows of segments are spins z, 1 = shown and -1 = hidden. Shapley values depend on the odd part of the answers
alone, (f(z) - f(-z)) / 2. Before anything is asked, it is taken for a sum of products of 1, 3, 5, ... spins
with independent normal coefficients. The variance of a product's coefficient is the product of the `strength`
of its segments. Each subset has noise of its own besides, for what is of high order. The values are those
that the answers then make likeliest (Bayesian quadrature, O'Hagan 1991).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from layermask.errors import InputError

MOST = 16_000  # rows: matrices of half of them take 0.5 GB each
TUNED_ON = 400  # subsets: enough to choose strengths and noise by
STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
NOISES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)


@dataclass(frozen=True)
class Prior:
    """`strength` (S,) in (0, 1); `noise`: its variance over that of the sum of products."""

    strength: Tensor
    noise: float


def shapley(rows: Tensor, outputs: Tensor, difference: float) -> tuple[Tensor, Tensor]:
    """Return the Shapley values (S,) and their standard errors (S,), by the posterior mean and spread.

    rows (n, S) bool, distinct, each with its complement; outputs (n,) float64; `difference`: the answer to
    all shown less that to nothing. Values sum to it.
    """
    spins, odd = _odd_part(rows, outputs, difference)
    chosen = slice(None, None, -(-len(spins) // TUNED_ON))
    prior = _tuned(spins[chosen], odd[chosen])
    covariance = _kernel(spins, spins, prior.strength) + prior.noise * torch.eye(len(spins))
    cross = _of_kernel(spins, prior.strength) + prior.noise * _of_point(spins)
    factor = torch.linalg.cholesky(covariance)
    weights = torch.cholesky_solve(cross, factor)
    # The strengths were chosen by the same answers, which takes as many degrees of freedom.
    free = max(len(odd) - rows.shape[1], len(odd) / 2)
    scale = (odd @ torch.cholesky_solve(odd[:, None], factor)[:, 0]) / free
    spread = _prior_variance(prior) - (cross * weights).sum(0)
    return odd @ weights, (scale * spread).clamp(min=0).sqrt()


def check_count(name: str, n_samples: int) -> None:
    """Refuse more rows than the matrices of the proxy have room for."""
    if n_samples > MOST:
        raise InputError(
            f"{name}: n_samples is {n_samples}, and finish='proxy' takes {MOST} at most, as its memory grows "
            "with the square: give fewer, or finish='regression'"
        )


def _odd_part(rows: Tensor, outputs: Tensor, difference: float) -> tuple[Tensor, Tensor]:
    """Return spins (m, S), the first one 1, and half the difference to their complements (m,)."""
    spins = 2 * rows.double() - 1
    sign = spins[:, 0]
    each, place = torch.unique(spins * sign[:, None], dim=0, return_inverse=True)
    odd = torch.zeros(len(each), dtype=torch.double).index_add(0, place, sign * outputs / 2)
    everything = torch.ones(1, rows.shape[1], dtype=torch.double)
    return torch.cat([each, everything]), torch.cat([odd, torch.tensor([difference / 2])])


def _tuned(spins: Tensor, odd: Tensor) -> Prior:
    """Choose by leave-one-out error: one strength for all segments, then in proportion to effects."""
    alike = [torch.full((spins.shape[1],), each, dtype=torch.double) for each in STRENGTHS]
    best = min(_judged(spins, odd, alike), key=lambda found: found[0])
    for _ in range(2):
        effects = _effects(spins, odd, best[1])
        scaled = [(share * effects**power).clamp(1e-3, 0.95) for power, share in product((0.5, 1), STRENGTHS)]
        best = min([best, *_judged(spins, odd, scaled)], key=lambda found: found[0])
    return best[1]


def _judged(spins: Tensor, odd: Tensor, strengths: list[Tensor]) -> list[tuple[float, Prior]]:
    """Return the mean squared leave-one-out error of each strength with each noise."""
    found = []
    for strength in strengths:
        values, vectors = torch.linalg.eigh(_kernel(spins, spins, strength))
        turned, squares = vectors.T @ odd, vectors.square()
        for noise in NOISES:
            inverse = 1 / (values.clamp(min=0) + noise)
            missed = (vectors @ (inverse * turned)) / (squares @ inverse)
            found.append((float(missed.square().mean()), Prior(strength, noise)))
    return found


def _effects(spins: Tensor, odd: Tensor, prior: Prior) -> Tensor:
    """Return how much flipping each segment changes the proxy (S,), root mean square, with a mean of 1."""
    covariance = _kernel(spins, spins, prior.strength)
    weights = torch.linalg.solve(covariance + prior.noise * torch.eye(len(spins)), odd)
    changes = []
    for segment in range(spins.shape[1]):
        flipped = spins.clone()
        flipped[:, segment] *= -1
        changes.append((covariance - _kernel(flipped, spins, prior.strength)) @ weights)
    effects = torch.stack(changes).square().mean(1).sqrt()
    return effects / effects.mean().clamp(min=1e-300)


def _kernel(one: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """Return (prod(1 + strength z z') - prod(1 - strength z z')) / 2 over its value at z' = z."""
    half = strength.atanh()
    most, inner = half.sum(), (one * half) @ other.T
    # sinh(inner) / sinh(most), where either may be too large for a float
    size = inner.abs()
    return inner.sign() * (size - most).exp() * torch.expm1(-2 * size) / torch.expm1(-2 * most)


def _log_scale(strength: Tensor) -> Tensor:
    """Return the logarithm of the kernel before it is divided, at z' = z."""
    most = strength.atanh().sum()
    return torch.log1p(-strength.square()).sum() / 2 + most + torch.log(-torch.expm1(-2 * most) / 2)


def _of_kernel(spins: Tensor, strength: Tensor) -> Tensor:
    """Return the Shapley values (m, S) of the kernel as a function of its first argument.

    Those of a product of spins over a set A of odd size are 2 / |A| for each in A, so that they are the
    integral of t^(|A| - 1), which makes one product of each sum of products.
    """
    total = torch.zeros_like(spins)
    for node, weight in _quadrature(spins.shape[1]):
        total += weight * _without_each(node * strength * spins, _log_scale(strength))
    return 2 * total * strength * spins


def _without_each(factors: Tensor, log_scale: Tensor) -> Tensor:
    """Return the means of prod(1 + x) and prod(1 - x) over all entries x of a row but each."""
    up, down = torch.log1p(factors), torch.log1p(-factors)
    sums = ((logs.sum(-1, keepdim=True) - logs - log_scale).exp() for logs in (up, down))
    return sum(sums) / 2  # type: ignore[return-value]


def _prior_variance(prior: Prior) -> Tensor:
    """Return the variances (S,) of the Shapley values before anything is asked, as `_kernel` is scaled."""
    strength, total = prior.strength, torch.zeros_like(prior.strength)
    nodes, weights = torch.tensor(_quadrature(len(strength)), dtype=torch.double).T
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        each = _without_each(node * nodes[:, None] * strength, _log_scale(strength))
        total += weight * (weights @ each)
    points = 4 * _shares(len(strength)).sum() / len(strength)
    return 4 * total * strength + prior.noise * points


def _quadrature(count: int) -> list[tuple[float, float]]:
    """Return nodes and weights of Gauss and Legendre on [0, 1], exact for polynomials of degree count - 1."""
    size = count // 2 + 1
    between = torch.arange(1, size, dtype=torch.double)
    jacobi = between / (4 * between.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(jacobi, 1) + torch.diag(jacobi, -1))
    return [*zip(((nodes + 1) / 2).tolist(), vectors[0].square().tolist(), strict=True)]


def _of_point(spins: Tensor) -> Tensor:
    """Return the Shapley values (m, S) of the game that is 1 at z, -1 at -z, and 0 elsewhere."""
    shown = (spins > 0).sum(1)
    share = 2 * _shares(spins.shape[1])
    gain, loss = share[(shown - 1).clamp(min=0)], share[shown.clamp(max=len(share) - 1)]
    return torch.where(spins > 0, gain[:, None], -loss[:, None])


def _shares(count: int) -> Tensor:
    """Return the weights in a Shapley value of subsets without the segment, by their size."""
    return torch.tensor(
        [1 / (count * math.comb(count - 1, size)) for size in range(count)], dtype=torch.double
    )
