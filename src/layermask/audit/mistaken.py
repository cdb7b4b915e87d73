"""What holes are taken for: classes that are answered oftener with parts hidden than for whole images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layermask.audit.answers import Answers
from layermask.metrics.bootstrap import average, bootstrap

AT = (0.4, 0.6)
"""The shares hidden that are looked at: holes enough to be seen, and enough left to be recognised."""


@dataclass(frozen=True)
class Mistaken:
    """A class that holes are taken for: `count` of the answers, from `images` images, in shares of all.

    `whole`: the share of whole images so answered; `excess`: the share less that one, with its interval.
    """

    label: int
    count: int
    images: int
    share: float
    whole: float
    excess: float
    low: float
    high: float


def mistaken_for(answers: Answers, removal: str, level: float = 0.95) -> list[Mistaken]:
    """Return the classes whose excess is above 0 by its interval over images, the largest first."""
    fractions = torch.tensor(answers.fractions)
    chosen = (fractions >= AT[0] - 1e-9) & (fractions <= AT[1] + 1e-9)
    if not bool(chosen.any()):
        return []
    given = answers.predicted[:, answers.removals.index(removal)][..., chosen].flatten(1)  # (N, S * k)
    found = [_one(int(label), given, answers.whole, level) for label in _candidates(given, answers.whole)]
    return sorted((each for each in found if each.low > 0), key=lambda each: (-each.excess, each.label))


def _candidates(given: Tensor, whole: Tensor) -> Tensor:
    """Return the classes of at least two images that are oftener answered than for whole images."""
    classes = given.unique()
    shares = torch.stack([(given == label).double().mean() for label in classes])
    usual = torch.stack([(whole == label).double().mean() for label in classes])
    spread = torch.stack([(given == label).any(1).sum() for label in classes])
    return classes[(shares > usual) & (spread >= 2)]


def _one(label: int, given: Tensor, whole: Tensor, level: float) -> Mistaken:
    hits, usual = given == label, whole == label
    excess = hits.double().mean(1) - usual.double()
    low, high = bootstrap(lambda weights: average(excess, weights), len(excess), level=level)
    return Mistaken(
        label,
        int(hits.sum()),
        int(hits.any(1).sum()),
        float(hits.double().mean()),
        float(usual.double().mean()),
        float(excess.mean()),
        float(low),
        float(high),
    )
