"""A few pictures of the audit, as the model is shown them under each removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.data.source import ImageSource, Sample
from layermask.explain.query_plan import Segments
from layermask.io.overlay import hidden_picture
from layermask.metrics.segment_removal import how_many
from layermask.removal.painting import PixelFill
from layermask.segment.presets import segmented
from layermask.studies.orders import random_order
from layermask.studies.protocol import MakeOperator
from layermask.studies.segments.answers import SegmentAnswers
from layermask.zoo.loaded import Loaded

if TYPE_CHECKING:
    import numpy as np

DIFFERING, DRAWN = 3, 2
"""Pictures on the page: those on which removals differ most, and others drawn by the seed."""


@dataclass(frozen=True)
class Chosen:
    """Pictures by their number among the answers, and the place of the share hidden among the fractions."""

    differing: list[int]
    drawn: list[int]
    place: int


def choose(answers: SegmentAnswers, candidates: Sequence[str], seed: int) -> Chosen:
    """Choose pictures that the model gets right whole, and about half of which is hidden.

    Those where one removal keeps the answer and others lose it, with the largest sum of the confidences of
    the lost answers; there may be none.
    """
    place = min(range(len(answers.fractions)), key=lambda k: abs(answers.fractions[k] - 0.5))
    rows = [answers.removals.index(name) for name in candidates]
    lost = answers.predicted[:, rows, 0, place] != answers.whole[:, rows, 0]
    sure = (answers.confidence[:, rows, 0, place].double() * lost).sum(1)
    contested = lost.any(1) & ~lost.all(1) & (answers.whole[:, 0, 0] == answers.labels)
    sure = torch.where(contested, sure, sure - 2 * len(rows))
    order = sure.argsort(descending=True, stable=True)[:DIFFERING].tolist()
    differing = [number for number in order if contested[number]]
    left = [number for number in range(len(answers.images)) if number not in differing]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))[:DRAWN]
    return Chosen(differing, sorted(left[number] for number in order.tolist()), place)


@dataclass(frozen=True)
class Shown:
    """A picture (H, W, 3) uint8 as it is, and as each removal shows it to the model."""

    image: str
    whole: np.ndarray
    under: dict[str, np.ndarray]


def show(
    sample: Sample,
    loaded: Loaded,
    device: torch.device,
    operator: MakeOperator,
    answers: SegmentAnswers,
    hidden: float,
    seed: int,
) -> Shown:
    """Make a picture again, the share `hidden` of the first segmentation's segments hidden."""
    x = loaded.preprocessing(sample.load_image())
    whole = loaded.preprocessing.picture(x)
    labels = segmented(answers.segmentations[0], whole)
    visible = _visible(labels, sample, answers.segmentations[0], hidden, seed)
    under = {}
    for name in answers.removals:
        made: Any = operator(name, loaded, labels.to(device))
        fill = getattr(made, "removal", made)  # within what halves its batches
        if isinstance(fill, PixelFill):
            with torch.no_grad():
                painted = fill.painted(x.to(device), visible.to(device))
            under[name] = loaded.preprocessing.picture(painted)
        else:
            under[name] = hidden_picture(whole, visible)
    return Shown(sample.name, whole, under)


def _visible(labels: Tensor, sample: Sample, segmentation: str, hidden: float, seed: int) -> Tensor:
    shown = Segments(labels, torch.device("cpu"))
    rank = random_order(shown.count, sample, segmentation, seed).argsort()
    return shown.masks(rank[None] >= how_many(hidden, shown.count))


def by_name(source: ImageSource, names: Sequence[str]) -> list[Sample]:
    known = {sample.name: sample for sample in source}
    return [known[name] for name in names]
