"""Which removal to use, and how sure that is: paired differences over images, and what to do with ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.io.notebook import card
from layermask.metrics.bootstrap import Estimate, mean_interval

FEWEST = 20
"""With fewer images a bootstrap says nothing: its resamples are too much alike."""
POWER, MOST = 0.8, 100_000
_PAINTS_NOTHING = ("layermask", "layermask-steady", "tokendrop")
_ONE_COLOUR = ("zero", "greyout", "blackout", "mean")  # the cheapest first: one write per hidden pixel
_KINDS = {"clear": "told apart from all others", "tie": "of several alike", "few": "too few images to say"}
_RESAMPLES = 4000  # the bounds of many comparisons lie far out in the tails


@dataclass(frozen=True)
class PairedDifference:
    """The leader's mean less that of another removal, with its interval at the level of all comparisons.

    `images_needed`: about how many would tell the two apart, if the difference is what it is here; None if
    they are told apart, or if no number below 100,000 would do.
    """

    removal: str
    difference: float
    low: float
    high: float
    images_needed: int | None

    @property
    def told_apart(self) -> bool:
        return self.low > 0


@dataclass(frozen=True)
class Verdict:
    """`recommended` and why: "clear", the `leader` is told apart from all; "tie", from all but those of
    `tied` (the leader among them); "few", there are too few images to say, and `recommended` is "".

    `because`: how a tie is broken. `cheapest`: of the tied ones, if it is another than the recommended.
    """

    kind: Literal["clear", "tie", "few"]
    recommended: str
    leader: str
    tied: tuple[str, ...]
    comparisons: tuple[PairedDifference, ...]
    level: float
    because: str = ""
    cheapest: str | None = None

    @property
    def best(self) -> str:
        """The recommended one, with which the others are compared; the leader where none is recommended."""
        return self.recommended or self.leader

    def _repr_html_(self) -> str:
        """What notebooks show: what to take and why, and each difference to the leader with its bounds."""
        gaps = {
            f"{self.leader} less {each.removal}": f"{100 * each.difference:.1f} points of answers kept, "
            f"{100 * each.low:.1f} to {100 * each.high:.1f}{' (told apart)' * each.told_apart}"
            for each in self.comparisons
        }
        tied = {"not told apart": ", ".join(self.tied)} if len(self.tied) > 1 else {}
        facts = {**tied, **({"why": self.because} if self.because else {}), **gaps}
        return card(f"{self.recommended or 'no removal is recommended'} ({_KINDS[self.kind]})", facts)


@checked(
    names=partial(kinds.several, kind=kinds.text),
    kept=partial(kinds.values, ndim=2, finite=True),
    level=partial(kinds.number, above=0, below=1),
)
def recommend(names: Sequence[str], kept: Tensor, level: float = 0.95) -> Verdict:
    """Judge removals by the share (N, R) of each image's answers that are those to the whole image.

    The best removal is among those not told apart from the leader with the probability `level` at least,
    though the leader is chosen by the same images: for that the best one would have to lose one of R - 1
    comparisons by chance, and each is made at the level 1 - (1 - level) / (R - 1).
    """
    if len(names) != kept.shape[1]:
        raise InputError(f"names are {len(names)} for kept {tuple(kept.shape)}: give one for each column")
    leader = int(kept.mean(0).argmax())
    each_level = 1 - (1 - level) / max(1, len(names) - 1)
    differences = kept[:, leader, None] - kept
    found = mean_interval(differences, level=each_level, n_resamples=_RESAMPLES).each()
    comparisons = tuple(
        _comparison(name, differences[:, other], found[other], each_level)
        for other, name in enumerate(names)
        if other != leader
    )
    few = len(kept) < FEWEST
    tied = [names[leader], *(each.removal for each in comparisons if few or not each.told_apart)]
    kind = "few" if few else "clear" if len(tied) == 1 else "tie"
    recommended, because = ("", "") if few else _break_tie(tied)
    cheapest = next((name for name in _ONE_COLOUR if name in tied), None)
    return Verdict(
        kind,
        recommended,
        names[leader],
        tuple(tied),
        comparisons,
        each_level,
        because if len(tied) > 1 else "",
        None if few or cheapest == recommended else cheapest,
    )


def _comparison(name: str, differences: Tensor, found: Estimate, level: float) -> PairedDifference:
    needed = None if found.low > 0 else images_needed(differences, level)
    return PairedDifference(name, float(differences.mean()), found.low, found.high, needed)


def images_needed(differences: Tensor, level: float) -> int | None:
    """Return how many images (N,) would show their mean difference to be none of chance.

    With the probability 0.8, at the two-sided `level`, by the normal approximation; None from 100,000 on.
    """
    mean = float(differences.mean())
    if not mean > 0 or len(differences) < 2:
        return None
    spread = float(differences.std())
    quantiles = torch.special.ndtri(torch.tensor([(1 + level) / 2, POWER], dtype=torch.float64))
    count = (float(quantiles.sum()) * spread / mean) ** 2
    return max(int(count) + 1, len(differences) + 1, FEWEST) if count < MOST else None


def _break_tie(tied: Sequence[str]) -> tuple[str, str]:
    """Return one of the tied removals, the first of which leads, and why."""
    for name in _PAINTS_NOTHING:
        if name in tied:
            return name, "it paints nothing, so there is no colour to choose and no paint to be explained"
    for name in _ONE_COLOUR:
        if name in tied:
            return name, "one colour is the cheapest to paint"
    return tied[0], "it has the highest share here"
