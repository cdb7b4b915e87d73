"""How explainers ask a model: plans say which masks, and full batches are made of what several plans want.

A plan is a generator. It yields a `Query`, is sent the `Answers`, yields the next, and returns its findings.
So an explainer reads as if it had a model of its own, while one forward pass may serve several pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layermask.removal.query import Forward, check_finite
from layermask.segment.labels import NOWHERE, sizes_of, sum_over


@dataclass(frozen=True)
class Query:
    """`count` masks of one picture; `visible(start, stop)` makes some of them: (stop - start, 1, *S) bool.

    `order` (count,), where it is given, says which answer each of these masks is for, as a permutation.
    """

    count: int
    visible: Callable[[int, int], Tensor]
    order: Tensor | None = None


def by_visibility(shown: Tensor, masks: Callable[[Tensor], Tensor]) -> Query:
    """Ask about masks from the one that shows least: what a batch costs may follow what its masks show.

    shown (count,) says how much each shows; `masks` makes those of some indices. Answers come back in the
    order of `shown`. Each is the same as in any other batch up to rounding (law 5): where kernels depend on
    who else is in the batch, the last bits may differ.
    """
    order = shown.argsort(stable=True)
    return Query(len(order), lambda start, stop: masks(order[start:stop]), order)


class Answers(NamedTuple):
    """What the model said: `values` (count, T) float64 of the targets, `top` (count,) its likeliest class."""

    values: Tensor
    top: Tensor


QueryPlan = Generator[Query, Answers, Any]


class Segments:
    """The segments of one picture on the device of its model: rows of shown segments become masks.

    Pixels of label -1 are in no segment, and never visible.
    """

    def __init__(self, labels: Tensor, device: torch.device) -> None:
        self.labels, self.device = labels, device
        self.count = int(labels.max()) + 1
        flat = labels.flatten().to(device)
        self._flat = flat.clamp(min=0)
        self._inside = None if bool((flat != NOWHERE).all()) else flat != NOWHERE
        self._pixels = sizes_of(labels, self.count).float()  # exact below 2^24

    def show(self, rows: Tensor) -> Query:
        """Ask about rows (count, segments) bool, True = shown."""
        # in parts: with pixels for segments the rows are larger than the image
        shown = torch.cat([part.float() @ self._pixels for part in rows.split(100)])
        return by_visibility(shown, lambda indices: self.masks(rows[indices]))

    def masks(self, rows: Tensor) -> Tensor:
        # gather is 20 times as fast as rows[:, labels] on a CPU
        flat = rows.to(self.device).gather(1, self._flat.expand(len(rows), -1))
        flat = flat if self._inside is None else flat & self._inside
        return flat.view(len(rows), 1, *self.labels.shape)

    def mean(self, maps: Tensor) -> Tensor:
        """Return the (T, segments) means of maps (T, *S) over each segment."""
        return sum_over(self.labels, maps, self.count) / sizes_of(self.labels, self.count)


class _Running:
    """One plan: what it asks now, how much of that is under way, and what came back."""

    def __init__(self, plan: QueryPlan, image: Tensor, targets: list[int]) -> None:
        self.plan, self.image, self.targets = plan, image, targets
        self.result: Any = None
        self.done = False
        self._next(None)

    def _next(self, answers: Answers | None) -> None:
        try:
            self.ask = next(self.plan) if answers is None else self.plan.send(answers)
        except StopIteration as stop:
            self.result, self.done, self.ask = stop.value, True, None
        self.start = 0
        self.parts: list[tuple[Tensor, Tensor]] = []

    @property
    def left(self) -> int:
        return 0 if self.ask is None else self.ask.count - self.start

    def take(self, count: int) -> Tensor:
        assert self.ask is not None
        self.start += count
        return self.ask.visible(self.start - count, self.start)

    def receive(self, outputs: Tensor) -> None:
        """Keep what is needed, on the device; when all is there, check it and go on."""
        self.parts.append((outputs[:, self.targets], outputs.argmax(1)))
        if not self.left:
            values, top = (torch.cat(part).cpu() for part in zip(*self.parts, strict=True))
            check_finite(values, self.image)
            self._next(self._in_order(Answers(values.double(), top)))

    def _in_order(self, answers: Answers) -> Answers:
        order = None if self.ask is None else self.ask.order
        return answers if order is None else Answers(*(part[order.argsort()] for part in answers))


def run(
    plans: Sequence[QueryPlan],
    images: Tensor,
    targets: Sequence[list[int]],
    forward: Forward,
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Any]:
    """Return what the plans return, one per image of (N, C, *S), asking `batch_size` masks at a time."""
    pictures = zip(plans, images.split(1), targets, strict=True)
    running = [_Running(plan, image, classes) for plan, image, classes in pictures]
    waiting = deque(each for each in running if not each.done)
    while waiting:
        batch = _collect(waiting, batch_size)
        sizes = [len(visible) for _, visible in batch]
        # One picture stays one: the removal operator expands it, and no copy per mask is made here.
        same = len(batch) == 1
        shown = batch[0][0].image if same else torch.cat([_repeat(each.image, v) for each, v in batch])
        outputs = forward(shown, torch.cat([visible for _, visible in batch]))
        for (each, _), part in zip(batch, outputs.split(sizes), strict=True):
            each.receive(part)
        advance(sum(sizes))
        while waiting and waiting[0].done:
            waiting.popleft()
    return [each.result for each in running]


def _collect(waiting: deque[_Running], room: int) -> list[tuple[_Running, Tensor]]:
    """Take masks from the first pictures that want some, until the batch is full."""
    batch = []
    for each in waiting:
        count = min(room, each.left)
        if count:
            batch.append((each, each.take(count)))
            room -= count
        if not room:
            break
    return batch


def _repeat(image: Tensor, visible: Tensor) -> Tensor:
    return image.expand(len(visible), *image.shape[1:])
