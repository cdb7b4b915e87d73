"""Answers of the study of segments, as blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.metrics.bootstrap import Estimate, Interval, bootstrap, estimates
from layermask.metrics.predictions import PREDICTION_METRICS, Predictions, Rule, area
from layermask.metrics.wordnet import are_imagenet
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    import numpy as np

Setting = tuple[str, str, str]
"""Segmentation, order, and what the order followed."""


@dataclass(frozen=True)
class Measured:
    """A metric under a setting, by removal: the `points` of the curve, its `area`, and the area less that of
    the first removal, for which there is no `difference`.
    """

    points: list[Estimate]
    area: Estimate
    difference: Estimate | None


def metrics_of(content: Content) -> list[str]:
    """Return the metrics that the results can be measured by."""
    known = are_imagenet(content.get("classes", ()))
    return [name for name in PREDICTION_METRICS if known or name != "wordnet-similarity"]


def predictions(columns: Columns, content: Content) -> dict[Setting, dict[str, Predictions]]:
    """Return the predictions by setting and removal, in the order of the settings."""
    keys = [columns[key].tolist() for key in ("segmentation", "order", "ranking")]
    removals = content["settings"]["removals"]
    settings = dict.fromkeys(zip(*keys, strict=True))
    return {each: {name: _predictions(columns, name, each) for name in removals} for each in settings}


def _predictions(columns: Columns, removal: str, setting: Setting) -> Predictions:
    named = zip(("segmentation", "order", "ranking"), setting, strict=True)
    chosen = columns["removal"] == removal
    for key, value in named:
        chosen = chosen & (columns[key] == value)
    fractions, place = torch.unique(torch.from_numpy(columns["fraction"][chosen]), return_inverse=True)
    # The rows of a picture stand together, its fractions in the order of the settings.
    order = place.view(-1, len(fractions))[0].argsort()

    def grid(name: str) -> Tensor:
        return torch.from_numpy(columns[name][chosen]).view(-1, len(fractions))[:, order]

    predicted, unchanged = grid("prediction").long(), grid("unchanged")
    return Predictions(predicted, fractions, grid("label")[:, 0].long(), _whole(predicted, unchanged))


def _whole(predicted: Tensor, unchanged: Tensor) -> Tensor:
    """Return the classes (N,) with nothing hidden, from those at which a prediction is unchanged.

    Nothing hidden need not be among the fractions; where all predictions changed, a class that none is.
    """
    first = unchanged.byte().argmax(1, keepdim=True)
    return torch.where(unchanged.any(1), predicted.gather(1, first)[:, 0], predicted.max() + 1)


def measure(found: dict[str, Predictions], metric: str, rule: Rule) -> dict[str, Measured]:
    """Measure the removals of one setting, all by the same resamples of the images."""
    each = list(found.values())
    images, fractions = len(each[0].predicted), each[0].fractions

    def statistic(weights: Tensor) -> Tensor:
        points = torch.stack([one.curve(metric, weights=weights) for one in each], 1)  # (B, removals, K)
        areas = area(points, fractions, rule)
        return torch.cat([points.flatten(1), areas, areas[:, 1:] - areas[:, :1]], 1)

    count, stages = len(each), len(fractions)
    center = PREDICTION_METRICS[metric].center
    numbers = estimates(statistic, images, count * (stages + 2) - 1, center=center)
    points, areas, differences = (
        numbers[: count * stages],
        numbers[count * stages : count * (stages + 1)],
        [None, *numbers[count * (stages + 1) :]],
    )
    return {
        name: Measured(points[place * stages : (place + 1) * stages], areas[place], differences[place])
        for place, name in enumerate(found)
    }


AXES = ("image", "removal", "segmentation", "fraction")


@dataclass(frozen=True)
class SegmentAnswers:
    """Classes `predicted` (N, R, S, K) of N images under R removals, S segmentations and K shares hidden.

    `labels` (N,) and `confidence` (N, R, S, K) as in the results; `metrics`: which may be asked for.
    """

    images: list[str]
    removals: list[str]
    segmentations: list[str]
    fractions: list[float]
    predicted: Tensor
    confidence: Tensor
    labels: Tensor
    metrics: tuple[str, ...]

    @property
    def whole(self) -> Tensor:
        """Return the classes (N,) with nothing hidden, which law 1 makes the same for all removals."""
        return self.predicted[:, 0, 0, 0]

    def curves(self, metric: str, weights: Tensor | None = None) -> Tensor:
        """Return a metric (R, S, K), or (B, R, S, K) for weights (B, N)."""
        entry = PREDICTION_METRICS[metric]
        against = {"labels": [self.labels], "whole": [self.whole], "": []}[entry.against]
        return entry.function(self.predicted, *against, weights=weights)

    def areas(self, metric: str, weights: Tensor | None = None) -> Tensor:
        """Return the mean (R,) or (B, R) of a metric over the shares hidden and the segmentations."""
        return self.curves(metric, weights).mean((-2, -1))

    def curve_interval(self, metric: str, level: float = 0.95, n_resamples: int = 1000) -> Interval:
        return self._interval(metric, lambda weights: self.curves(metric, weights), level, n_resamples)

    def area_interval(self, metric: str, level: float = 0.95, n_resamples: int = 1000) -> Interval:
        return self._interval(metric, lambda weights: self.areas(metric, weights), level, n_resamples)

    def differences(
        self, metric: str, removal: str, level: float = 0.95, n_resamples: int = 1000
    ) -> tuple[Tensor, Interval]:
        """Return the area of a removal less those of all (R,), and its interval, paired over images."""
        place = self.removals.index(removal)

        def lead(weights: Tensor | None = None) -> Tensor:
            areas = self.areas(metric, weights)
            return areas[..., place, None] - areas

        return lead(), self._interval(metric, lead, level, n_resamples)

    def per_image(self) -> Tensor:
        """Return the share (N, R) of answers of each image that are those to the whole image."""
        kept = self.predicted == self.whole[:, None, None, None]
        return kept.double().mean((-2, -1))

    def _interval(self, metric: str, statistic: Any, level: float, n_resamples: int) -> Interval:
        center = PREDICTION_METRICS[metric].center
        return bootstrap(
            statistic, len(self.images), level=level, n_resamples=n_resamples, seed=0, center=center
        )


def read_answers(columns: dict[str, np.ndarray], metrics: tuple[str, ...]) -> SegmentAnswers:
    """Arrange the rows of segment removal in random order; the order of rows does not matter.

    Raises:
        InputError: not every image has one row per removal, segmentation and share hidden.
    """
    chosen = columns["order"] == "random"
    names = {axis: list(dict.fromkeys(columns[axis][chosen].tolist())) for axis in AXES}
    names["fraction"].sort()
    shape = [len(each) for each in names.values()]
    place = torch.zeros(int(chosen.sum()), dtype=torch.int64)
    for axis in AXES:
        numbers = {name: number for number, name in enumerate(names[axis])}
        steps = torch.tensor([numbers[name] for name in columns[axis][chosen].tolist()])
        place = place * len(numbers) + steps
    if len(place) != torch.tensor(shape).prod() or len(place.unique()) < len(place):
        raise InputError(f"{len(place)} rows for {' × '.join(map(str, shape))} answers: run the audit again")
    order = place.argsort()

    def block(name: str) -> Tensor:
        return torch.from_numpy(columns[name][chosen])[order].view(shape)

    labels = block("label")[:, 0, 0, 0].long()
    return SegmentAnswers(
        names["image"],
        names["removal"],
        names["segmentation"],
        names["fraction"],
        block("prediction").long(),
        block("confidence"),
        labels,
        metrics,
    )
