"""Timing sides against each other: they take turns, so that a busy moment of the machine meets them all."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

FEWEST = 3  # rounds that make a result, where time runs out


class Late(Exception):
    """The time limit has passed before there was a result."""


class Deadline:
    """A point in time, `minutes` from now; none by default."""

    def __init__(self, minutes: float | None = None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def passed(self) -> bool:
        return self.end is not None and time.monotonic() > self.end

    def check(self) -> None:
        if self.passed():
            raise Late


@dataclass
class Times:
    """Seconds per call of each side, in rounds: of the clock, and of the processor (all threads)."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, wall: float, cpu: float) -> None:
        self.wall.setdefault(side, []).append(wall)
        self.cpu.setdefault(side, []).append(cpu)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(
    sides: Mapping[str, Callable],
    feed: Callable[[int], Iterable],
    rounds: int,
    deadline: Deadline,
    device: str = "cpu",
) -> Times:
    """Time warm sides; `feed(round)` gives what each is called with in that round, one call after another.

    The order is drawn anew for every round. Past the deadline there are FEWEST rounds, or `Late` is raised.
    """
    times, draw = Times(), random.Random(0)
    for turn in range(rounds):
        if deadline.passed() and turn >= FEWEST:
            break
        given = list(feed(turn))
        gc.collect()  # of what the round before has left behind
        for name in draw.sample(list(sides), len(sides)):
            deadline.check() if turn < FEWEST else None
            times.add(name, *_seconds(sides[name], given, device))
    return times


def _seconds(side: Callable, given: Sequence, device: str) -> tuple[float, float]:
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for each in given:
        side(each)
    synchronize(device)
    return (time.perf_counter() - wall) / len(given), (time.process_time() - cpu) / len(given)


def ratios(times: Mapping[str, Sequence[float]], side: str, base: str = "plain") -> list[float]:
    """The ratios of two sides round by round, in order of size."""
    return sorted(a / b for a, b in zip(times[side], times[base], strict=True))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the middle half where there are rounds enough to know it."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) < FEWEST:
        return middle
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle} ({low:.{digits}f}–{high:.{digits}f})"
