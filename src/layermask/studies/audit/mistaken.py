"""What holes are taken for: classes that are predicted more often with parts hidden than for whole images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from layermask.metrics.bootstrap import mean_interval
from layermask.studies.segments.answers import SegmentAnswers

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


def mistaken_for(answers: SegmentAnswers, removal: str, level: float = 0.95) -> list[Mistaken]:
    """Return the classes whose excess is above 0 by its interval over images, the largest first."""
    fractions = torch.tensor(answers.fractions)
    chosen = (fractions >= AT[0] - 1e-9) & (fractions <= AT[1] + 1e-9)
    row = answers.removals.index(removal)
    given = answers.predicted[:, row][..., chosen].flatten(1)  # (N, S * k)
    classes = given.unique()
    shares = torch.stack([(given == label).double().mean(1) for label in classes], 1)  # (N, classes)
    usual = (answers.whole[:, row, :1] == classes).double()
    likely = ((shares > 0).sum(0) >= 2) & (shares.mean(0) > usual.mean(0))
    if not bool(likely.any()):
        return []
    classes, shares, usual = classes[likely], shares[:, likely], usual[:, likely]
    excess = mean_interval(shares - usual, level=level).each()
    found = [
        Mistaken(
            label,
            int((given == label).sum()),
            int((shares[:, place] > 0).sum()),
            float(shares[:, place].mean()),
            float(usual[:, place].mean()),
            float((shares - usual)[:, place].mean()),
            each.low,
            each.high,
        )
        for place, (label, each) in enumerate(zip(classes.tolist(), excess, strict=True))
        if each.low > 0
    ]
    return sorted(found, key=lambda each: (-each.excess, each.label))
