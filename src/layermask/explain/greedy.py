"""Minimal sufficient regions: a small visible part, found greedily, that keeps the model's prediction."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.errors import InputError
from layermask.explain.explainer import Explainer
from layermask.explain.query_plan import Answers, Query, QueryPlan, Segments


@dataclass(frozen=True)
class _Greedy(Explainer):
    """`step` segments move in a round, after each of which all that are left are tried again.

    By default a fiftieth of the segments. The region is sufficient: it was shown alone, and the prediction
    was kept. It is small, but no smaller one is ruled out.
    """

    step: Annotated[int | None, kinds.optional(kinds.count)] = None

    compares: ClassVar[bool] = True

    def cost(self, segments: Segments) -> int:
        rounds = -(-segments.count // self._step(segments.count))
        return rounds * (segments.count + 3) // 2  # if all segments have to move, the most there can be

    def _step(self, n_segments: int) -> int:
        return self.step or -(-n_segments // 50)

    def _likeliest(self, outputs: Tensor) -> list[int]:
        return [int(outputs.argmax())]

    def _expect(self, whole: Tensor, classes: list[list[int]]) -> None:
        for outputs, targets in zip(whole, classes, strict=True):
            best = int(outputs.argmax())
            if targets != [best]:
                raise InputError(
                    f"{self.name} keeps the model's prediction, class {best}: targets {targets} are others"
                )


@dataclass(frozen=True)
class GreedyInsertion(_Greedy):
    """From nothing shown, segments that raise the target most are added until the prediction is that of the
    whole picture; those that turn out not to be needed go again. Scores: what a segment of the region added
    when it was, 0 for the others."""

    name: ClassVar[str] = "greedy insertion"

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        shown, step = torch.zeros(segments.count, dtype=torch.bool), self._step(segments.count)
        scores, asked = torch.zeros(segments.count, dtype=torch.double), 1
        answer = yield segments.show(shown[None])
        while int(answer.top[0]) != targets[0]:
            left = (~shown).nonzero()[:, 0]
            tried = yield from _try(segments, shown, left)
            best = tried.values[:, 0].argsort(descending=True, stable=True)[:step]
            scores[left[best]] = tried.values[best, 0] - answer.values[0, 0]
            shown = shown.index_fill(0, left[best], True)
            answer = yield segments.show(shown[None])
            asked += len(left) + 1
        shown, _, more = yield from _shrink(segments, shown, answer.values[0, 0], 1, targets[0])
        return {"scores": (scores * shown)[None], "region": shown[None], "n_samples": asked + more}


@dataclass(frozen=True)
class GreedyDeletion(_Greedy):
    """From all shown, segments that the target misses least are hidden for as long as the prediction stays.

    Scores: what the target lost by a segment when it was hidden; for those of the region, when it was tried
    last.
    """

    name: ClassVar[str] = "greedy deletion"

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        everything, step = torch.ones(segments.count, dtype=torch.bool), self._step(segments.count)
        shown, scores, asked = yield from _shrink(segments, everything, prediction[0], step, targets[0])
        return {"scores": scores[None], "region": shown[None], "n_samples": asked}


def _shrink(
    segments: Segments, shown: Tensor, value: Tensor, step: int, target: int
) -> Generator[Query, Answers, tuple[Tensor, Tensor, int]]:
    """Hide what is missed least, in ever smaller steps, until nothing can go; return what each loss was."""
    scores, asked = torch.zeros(segments.count, dtype=torch.double), 0
    while step and shown.any():
        left = shown.nonzero()[:, 0]
        tried = yield from _try(segments, shown, left)
        scores[left] = value - tried.values[:, 0]
        order = left[tried.values[:, 0].argsort(descending=True, stable=True)]
        asked += len(left)
        while step:
            without = shown.index_fill(0, order[:step], False)
            answer = yield segments.show(without[None])
            asked += 1
            if int(answer.top[0]) == target:
                shown, value = without, answer.values[0, 0]
                break
            step //= 2
    return shown, scores, asked


def _try(segments: Segments, shown: Tensor, left: Tensor) -> Generator[Query, Answers, Answers]:
    """Ask about `shown` with each of the segments `left` flipped, one at a time."""
    rows = shown.repeat(len(left), 1)
    rows[torch.arange(len(left)), left] = ~rows[torch.arange(len(left)), left]
    return (yield segments.show(rows))
