"""The attributions that a removal operator ranks: from a picture to one score for each of its segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layermask.errors import InputError, nearest
from layermask.explain.registry import EXPLAINERS, explainer
from layermask.metrics.operators import random_scores
from layermask.removal.reading import Output
from layermask.segment.labels import sum_over
from layermask.studies.orders import gradient, input_gradient
from layermask.zoo.loaded import Loaded

JUDGE = ""
"""Instead of the name of a removal: the one that judges."""


@dataclass(frozen=True)
class Case:
    """A picture x (1, C, H, W), its segments (H, W), the class explained, and what may be asked about it.

    `operator` gives the removal operator of a name. `samples`: masks per segment of methods that draw them,
    by `seed`; `batch_size` at a time. `output`: what of the model's scores is explained.
    """

    loaded: Loaded
    x: Tensor
    segments: Tensor
    target: int
    operator: Callable[[str], Callable[..., Any]]
    samples: int
    seed: int
    batch_size: int
    output: Output = "probability"

    @property
    def count(self) -> int:
        return int(self.segments.max()) + 1


@dataclass(frozen=True)
class Attributor:
    """What scores the segments of a case, (S,) float64. `asks`: the removal that it asks by, if any."""

    scores: Callable[[Case, str], Tensor]
    """From the case and the name of that removal."""
    summary: str
    asks: str | None = None


class Scores:
    """The scores of one case by method, each made once for all judges where it does not ask the judge."""

    def __init__(self, case: Case, names: Sequence[str]) -> None:
        self.case, self.names = case, names
        self._made: dict[tuple[str, str], Tensor] = {}

    def by(self, judge: str) -> Tensor:
        """Return the scores (M, S) of the methods; those that ask the judge ask `judge`."""
        return torch.stack([self._one(name, judge) for name in self.names])

    def _one(self, name: str, judge: str) -> Tensor:
        found = method(name)
        asked = judge if found.asks == JUDGE else found.asks or ""
        if (name, asked) not in self._made:
            self._made[name, asked] = found.scores(self.case, asked)
        return self._made[name, asked]


def _random(case: Case, removal: str) -> Tensor:
    # another stream than that of the random orders, whose chunk is 0
    return random_scores(1, case.count, case.seed, 1)[0]


def _gradient(case: Case, removal: str) -> Tensor:
    return sum_over(case.segments, input_gradient(case.loaded, case.x).double())


def _input_times_gradient(case: Case, removal: str) -> Tensor:
    product = case.x * gradient(case.loaded, case.x, case.target)
    return sum_over(case.segments, product[0].sum(0).cpu().double())


METHODS: dict[str, Attributor] = {
    "random": Attributor(_random, "random numbers, which every other should beat"),
    "gradient": Attributor(
        _gradient, "sum of the absolute input gradient (largest channel) of the plain model's largest score"
    ),
    "input-x-gradient": Attributor(
        _input_times_gradient, "sum of input times gradient, the input as normalised (Shrikumar et al. 2016)"
    ),
}
"""By name. Every explainer of `layermask explain` is one, too: see `method`."""


def method(name: str) -> Attributor:
    """Return the method of a name in `METHODS`, or EXPLAINER@REMOVAL, as lime@greyout.

    An explainer alone asks by the removal that judges: then the judges rank scores of their own.

    Raises:
        InputError: there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    kind, _, removal = name.partition("@")
    if kind not in EXPLAINERS:
        known = [*METHODS, *EXPLAINERS]
        raise InputError(
            f"unknown method {name!r}: choose from {', '.join(METHODS)}, or one of {', '.join(EXPLAINERS)} "
            f"with @REMOVAL{nearest(name, known)}"
        )
    return Attributor(partial(_explained, kind), f"{kind} by {removal or 'the judge'}", removal)


def _explained(kind: str, case: Case, removal: str) -> Tensor:
    known = {field.name for field in dataclasses.fields(explainer(kind))}
    drawn = {"n_samples": case.samples * case.count, "seed": case.seed}
    settings: dict[str, Any] = {key: value for key, value in drawn.items() if key in known}
    asks = explainer(kind)(
        case.operator(removal), perturbations_per_eval=case.batch_size, output=case.output, **settings
    )
    return asks.attribute(case.x, case.target, case.segments).scores[0]
