"""Shapley values by random orders: what each segment adds when it is shown after those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.explain.query_plan import QueryPlan, Segments
from layermask.explain.sampling import CHUNK, SamplingExplainer, generator, warn_if_few


@dataclass(frozen=True)
class PermutationShapley(SamplingExplainer):
    """Shapley values over random orders of the segments (Castro et al. 2009), each with its reverse.

    An order and its reverse are antithetic (Mitchell et al. 2022): they cost 2 (S - 1) masks and give two
    estimates whose errors partly cancel. `n_samples` masks at most, but one pair at least. Scores sum to
    f(all shown) - f(nothing shown).
    """

    name: ClassVar[str] = "Shapley"

    def _pairs(self, n_segments: int) -> int:
        return max(1, self.n_samples // (2 * (n_segments - 1)))

    def cost(self, segments: Segments) -> int:
        return 1 + 2 * (segments.count - 1) * self._pairs(segments.count)

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        count = segments.count
        warn_if_few(self.name, self.n_samples, 2 * (count - 1), count)
        nothing = (yield segments.show(torch.zeros(1, count, dtype=torch.bool))).values[0]
        total, per_ask = self._pairs(count), max(1, CHUNK // (2 * (count - 1)))
        first, second = torch.zeros(2, len(targets), count, dtype=torch.double)
        stopping, done = self.stopping(), 0
        while done < total:
            orders = _orders(min(per_ask, total - done), count, self.seed, done)
            answers = yield segments.show(_prefixes(orders).flatten(0, 1))
            gains = _gains(orders, answers.values, nothing, prediction)
            pairs = gains.unflatten(0, (-1, 2)).mean(1)  # (pairs, T, S)
            first += pairs.sum(0)
            second += pairs.square().sum(0)
            done += len(pairs)
            if stopping.reached(first / done, _errors(first, second, done)):
                break
        return {
            "scores": first / done,
            "stderr": _errors(first, second, done),
            "n_samples": 1 + 2 * (count - 1) * done,
        }


def _errors(first: Tensor, second: Tensor, done: int) -> Tensor:
    """Return the standard errors of the mean of `done` values, whose sum and sum of squares are given."""
    mean = first / done
    variance = (second / done - mean.square()).clamp(min=0) * done / max(done - 1, 1)
    return (variance / done).sqrt() if done > 1 else torch.full_like(mean, torch.nan)


def _orders(pairs: int, count: int, seed: int, first: int) -> Tensor:
    """Return (2 pairs, S) orders, each followed by its reverse."""
    draws = [torch.randperm(count, generator=generator(seed, first + n)) for n in range(pairs)]
    return torch.stack([order for draw in draws for order in (draw, draw.flip(0))])


def _prefixes(orders: Tensor) -> Tensor:
    """Return (orders, S - 1, S) rows: the first, the first two, ... segments of each order shown."""
    place = orders.argsort(1)
    return place[:, None] < torch.arange(1, orders.shape[1])[:, None]


def _gains(orders: Tensor, values: Tensor, nothing: Tensor, everything: Tensor) -> Tensor:
    """Return (orders, T, S): what each segment added where it came."""
    count = orders.shape[1]
    chain = values.view(len(orders), count - 1, -1)
    ends = [end.expand(len(orders), 1, -1) for end in (nothing, everything)]
    steps = torch.cat([ends[0], chain, ends[1]], 1).diff(dim=1)  # in the order of the order
    place = orders.argsort(1)[..., None].expand_as(steps)
    return steps.gather(1, place).transpose(1, 2)
