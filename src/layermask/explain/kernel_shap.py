"""KernelSHAP: Shapley values by weighted least squares over subsets of segments."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import ClassVar, Literal

import torch
from torch import Tensor

from layermask.explain import proxy
from layermask.explain.regression import Fit, Moments, invert, r2
from layermask.explain.sampling import CHUNK, chunk_sizes, generator
from layermask.explain.surrogate import Design, Surrogate, equal_weights, total

Finish = Literal["regression", "proxy"]


@dataclass(frozen=True)
class KernelShap(Surrogate):
    """Shapley values of the segments (Lundberg & Lee 2017): they sum to f(all shown) - f(nothing shown).

    Subset sizes whose share of the kernel's weight pays for all of their subsets are listed in full, from the
    outside in, as in the package shap; the others are drawn in pairs with their complements (Covert & Lee
    2021). With n_samples >= 2^S - 2 the values are exact.

    `finish`: "regression", or "proxy", which takes the values of a Gaussian process through the answers
    (`explain.proxy`), in place of those of a linear fit, and draws no subset twice. It needs fewer masks for
    the same error; its work grows with the cube of n_samples, of which it takes 16,000 at most.
    """

    _: dataclasses.KW_ONLY
    finish: Finish = "regression"

    name: ClassVar[str] = "KernelSHAP"
    asks_for_nothing: ClassVar[bool] = True
    drawn_together: ClassVar[int] = 2

    def design(self, n_segments: int) -> Design:
        by_proxy = self.finish == "proxy"
        design = _ShapleyKernel(n_segments, self.n_samples, self.seed, distinct=by_proxy).design()
        if by_proxy and len(design.sizes) > design.exact:
            proxy.check_count(self.name, sum(design.sizes))
        return design

    def finished(
        self, design: Design, outputs: list[Tensor], sums: list[Moments], ends: Tensor
    ) -> tuple[Fit, Tensor | None]:
        fit, errors = super().finished(design, outputs, sums, ends)
        if self.finish == "regression" or errors is None:
            return fit, errors
        rows = torch.cat([design.rows(index) for index in range(len(outputs))])
        differences = (ends[1] - ends[0]).tolist()
        found = [proxy.shapley(rows, *each) for each in zip(torch.cat(outputs).T, differences, strict=True)]
        scores, errors = (torch.stack(part) for part in zip(*found, strict=True))
        fitted = r2(total(sums, design), scores, ends[0])
        return fit._replace(coefficients=scores, r2=fitted), errors

    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        """Least squares under the constraint that scores sum to the difference of the ends."""
        nothing, everything = ends
        features, products = moments.features, moments.products
        cross = products[features, moments.targets] - products[features, :1] * nothing
        inverse = invert(products[features, features])
        toward = inverse.sum(1)  # where the constraint pushes
        inverse = inverse - toward[:, None] * toward / toward.sum()
        scores = (inverse @ cross + toward[:, None] / toward.sum() * (everything - nothing)).T
        return Fit(scores, nothing, r2(moments, scores, nothing), inverse, torch.zeros(len(toward)))


class _ShapleyKernel:
    """Listed subsets of the outer sizes, then random pairs of the inner ones."""

    def __init__(self, n_segments: int, n_samples: int, seed: int, distinct: bool = False) -> None:
        self.n_segments, self.n_samples, self.seed = n_segments, n_samples, seed
        self.distinct = distinct  # so that no subset is drawn twice
        sizes = range(1, n_segments // 2 + 1)  # with their complements
        # (S - 1) / (k (S - k)), summed over the subsets of both sizes of a pair, and normalised
        weight = {k: (1 if 2 * k == n_segments else 2) / (k * (n_segments - k)) for k in sizes}
        whole = sum(weight.values())
        self.weight = {k: w / whole for k, w in weight.items()}
        self.listed = self._affordable(n_samples)
        self.inner = [k for k in self.weight if k not in self.listed]
        self._list = self._listing()
        self._made: list[Tensor] = []
        self._seen: set[bytes] = set()

    def design(self) -> Design:
        count = sum(map(self._number, self.listed))
        left = self.n_samples - count - (self.n_samples - count) % 2 if self.inner else 0
        listed = chunk_sizes(count)
        self.sizes, self.exact = [*listed, *chunk_sizes(max(left, 0 if count else 2))], len(listed)
        mass = sum(self.weight[k] for k in self.inner)
        return Design(self.sizes, self.rows, self.weights, self.exact, mass or None)

    def _number(self, k: int) -> int:
        return math.comb(self.n_segments, k) * (1 if 2 * k == self.n_segments else 2)

    def _affordable(self, n_samples: int) -> list[int]:
        listed, room, rest = [], n_samples, 1.0
        for k, weight in self.weight.items():
            if self._number(k) > room * weight / rest * (1 + 1e-9):
                break
            listed.append(k)
            room, rest = room - self._number(k), max(rest - weight, 1e-12)
        return listed

    def _listing(self) -> Iterator[Tensor]:
        for k in self.listed:
            for chosen in combinations(range(self.n_segments), k):
                row = torch.zeros(self.n_segments, dtype=torch.bool)
                row[list(chosen)] = True
                yield row
                if 2 * k != self.n_segments:
                    yield ~row

    def rows(self, index: int) -> Tensor:
        while len(self._made) <= index < self.exact:
            self._made.append(torch.stack(list(islice(self._list, CHUNK))))
        while self.distinct and len(self._made) <= index:
            self._made.append(self._unseen(len(self._made)))
        return self._made[index] if index < len(self._made) else self._pairs(index)

    def _pairs(self, index: int) -> Tensor:
        """Sizes by their weight, a random subset of each size, and its complement right after it."""
        rows = self._subsets(self.sizes[index] // 2, generator(self.seed, index))
        return torch.stack([rows, ~rows], 1).flatten(0, 1)

    def _subsets(self, count: int, draw: torch.Generator) -> Tensor:
        weights = torch.tensor([self.weight[k] for k in self.inner], dtype=torch.double)
        sizes = torch.tensor(self.inner)[torch.multinomial(weights, count, True, generator=draw)]
        order = torch.rand(count, self.n_segments, generator=draw).argsort(1).argsort(1)
        return order < sizes[:, None]

    def _unseen(self, index: int) -> Tensor:
        """As `_pairs`, without those that this or an earlier chunk has drawn."""
        draw, pairs = generator(self.seed, index), []
        while len(pairs) < self.sizes[index] // 2:
            for row in self._subsets(self.sizes[index] // 2 - len(pairs), draw):
                pair = torch.stack([row, ~row])
                key = pair[int(pair[1, 0])].numpy().tobytes()
                if key not in self._seen:
                    self._seen.add(key)
                    pairs.append(pair)
        return torch.cat(pairs)

    def weights(self, index: int, rows: Tensor) -> Tensor:
        if index >= self.exact:
            return equal_weights(index, rows)
        sizes = rows.sum(1)
        small = torch.minimum(sizes, self.n_segments - sizes).tolist()
        return torch.tensor([self.weight[k] / self._number(k) for k in small], dtype=torch.double)
