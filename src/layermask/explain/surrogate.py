"""Explainers that fit a linear surrogate on random rows of segments: LIME, KernelSHAP and Banzhaf differ in
which rows they draw, how they weigh them, and what they hold fixed in the fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments.refusal import warn
from layermask.errors import InputError
from layermask.explain.query_plan import QueryPlan, Segments
from layermask.explain.regression import Chunk, Fit, Moments, standard_errors
from layermask.explain.sampling import SamplingExplainer, warn_if_few

MANY, MOST = 2_000, 5_000  # segments: 3 s and 40 s for one fit with errors on one core, 2 rows per segment


@dataclass(frozen=True)
class Design:
    """The rows that are asked for, in chunks of `sizes`: those before `exact` list sets in full, the rest is
    random."""

    sizes: Sequence[int]
    rows: Callable[[int], Tensor]
    """Returns the (n, S) bool rows of a chunk, the same ones at every call."""
    weights: Callable[[int, Tensor], Tensor]
    """Returns the (n,) float64 weights of the rows of a chunk."""
    exact: int = 0
    mass: float | None = None
    """What the weights of random rows are scaled to sum up to, if anything."""


def equal_weights(index: int, rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=torch.double)


@dataclass(frozen=True)
class Surrogate(SamplingExplainer):
    """Scores are the coefficients of a linear model of the answers."""

    drawn_together: ClassVar[int] = 1  # rows per independent draw

    @abstractmethod
    def design(self, n_segments: int) -> Design: ...

    @abstractmethod
    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        """Fit. ends (2, T): the outputs for nothing (if `asks_for_nothing`) and for everything shown."""

    asks_for_nothing: ClassVar[bool] = False

    def advised(self, n_segments: int) -> int:
        """Return the fewest samples that can tell this many segments apart."""
        return 2 * n_segments

    def cost(self, segments: Segments) -> int:
        return sum(self.design(segments.count).sizes) + self.asks_for_nothing

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        _check_size(self.name, segments.count)
        warn_if_few(self.name, self.n_samples, self.advised(segments.count), segments.count)
        ends = torch.stack([torch.zeros_like(prediction), prediction])
        if self.asks_for_nothing:
            ends[0] = (yield segments.show(torch.zeros(1, segments.count, dtype=torch.bool))).values[0]
        design, outputs = self.design(segments.count), []
        sums = [Moments(segments.count, len(targets)) for _ in range(2)]  # of listed and of random rows
        stopping, last_look = self.stopping(), 0
        for index in range(len(design.sizes)):
            outputs.append((yield segments.show(design.rows(index))).values)
            sums[index >= design.exact].add(*self._chunk(design, index, outputs[index]))
            asked = sum(map(len, outputs))
            if asked - last_look >= segments.count and stopping.possible:
                last_look = asked
                fit, errors = self.finished(design, outputs, sums, ends)
                if stopping.reached(fit.coefficients, errors):
                    break
        fit, errors = self.finished(design, outputs, sums, ends)
        return {
            "scores": fit.coefficients,
            "stderr": errors,
            "intercept": fit.intercept,
            "r2": fit.r2,
            "n_samples": sum(map(len, outputs)) + self.asks_for_nothing,
        }

    def _chunk(self, design: Design, index: int, outputs: Tensor) -> Chunk:
        rows = design.rows(index)
        return rows.double(), outputs, design.weights(index, rows)

    def finished(
        self, design: Design, outputs: list[Tensor], sums: list[Moments], ends: Tensor
    ) -> tuple[Fit, Tensor | None]:
        """Return what the answers so far say, and its standard errors; None where all rows are listed."""
        fit = self.fit(total(sums, design), ends)
        drawn = self._drawn(design, outputs, _scale(sums, design))
        return fit, standard_errors(drawn, fit, self.drawn_together) if len(outputs) > design.exact else None

    def _drawn(self, design: Design, outputs: list[Tensor], scale: float) -> Iterator[Chunk]:
        for index in range(design.exact, len(outputs)):
            rows, values, weights = self._chunk(design, index, outputs[index])
            yield rows, values, weights * scale


def _check_size(name: str, n_segments: int) -> None:
    """The time of the fit grows with the cube of the number of segments, its memory with the square."""
    if n_segments > MOST:
        raise InputError(
            f"{name}: feature_mask has {n_segments} segments, and the fit takes {MOST} at most, as its "
            f"matrices would need about {80 * n_segments**2 / 1e9:.1f} GB: "
            "give fewer segments, or use PermutationShapley, Occlusion or Rise"
        )
    if n_segments > MANY:
        warn(
            f"{name}: the fit of {n_segments} segments takes up to a minute, with the cube of their number: "
            f"give {MANY} or fewer, or use PermutationShapley, Occlusion or Rise"
        )


def _scale(sums: list[Moments], design: Design) -> float:
    return 1.0 if design.mass is None or not sums[1].weight else design.mass / sums[1].weight


def total(sums: list[Moments], design: Design) -> Moments:
    return sums[0].plus(sums[1], _scale(sums, design))
