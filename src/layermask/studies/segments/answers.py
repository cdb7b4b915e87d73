"""The answers of the study of segments, as one block: image x removal x setting x share hidden."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.metrics.bootstrap import Estimate
from layermask.metrics.predictions import PREDICTION_METRICS, Predictions, Rule, area
from layermask.metrics.wordnet import are_imagenet
from layermask.studies.registry import Columns, Content

Setting = tuple[str, str, str]
"""Segmentation, order, and what the order followed."""


def metrics_of(content: Content) -> list[str]:
    """Return the metrics that the results can be measured by."""
    known = are_imagenet(content.get("classes", ()))
    return [name for name in PREDICTION_METRICS if known or name != "wordnet-similarity"]


@dataclass(frozen=True)
class SegmentAnswers:
    """What the model predicted, `predictions.predicted` (N, R, S, K), and its `confidence` in it.

    N `images` under R `removals`, S `settings` and K shares hidden. The classes with nothing hidden, (N, R,
    S), are those that the rows call unchanged: law 1 makes them the same for all removals that keep it.
    """

    images: list[str]
    removals: list[str]
    settings: list[Setting]
    predictions: Predictions
    confidence: Tensor

    @property
    def predicted(self) -> Tensor:
        return self.predictions.predicted

    @property
    def whole(self) -> Tensor:
        assert self.predictions.whole is not None
        return self.predictions.whole

    @property
    def labels(self) -> Tensor:
        assert self.predictions.labels is not None
        return self.predictions.labels

    @property
    def fractions(self) -> list[float]:
        return self.predictions.fractions.tolist()

    @property
    def segmentations(self) -> list[str]:
        return [segmentation for segmentation, _, _ in self.settings]

    def by_setting(self) -> dict[Setting, SegmentAnswers]:
        """Return the answers under each setting alone."""
        return {setting: self._under(place) for place, setting in enumerate(self.settings)}

    def _under(self, place: int) -> SegmentAnswers:
        one = slice(place, place + 1)
        found = replace(self.predictions, predicted=self.predicted[:, :, one], whole=self.whole[:, :, one])
        return SegmentAnswers(
            self.images, self.removals, self.settings[one], found, self.confidence[:, :, one]
        )

    def areas(self, metric: str, level: float) -> Estimate:
        """Return the mean (R,) of a metric over the shares hidden and the settings."""
        return self.predictions.estimate(metric, _means, level=level)

    def curves(self, metric: str, level: float) -> Estimate:
        """Return a metric (R, S, K)."""
        return self.predictions.estimate(metric, lambda curves: curves, level=level)

    def differences(self, metric: str, removal: str, level: float) -> Estimate:
        """Return the area of a removal less those of all (R,), paired over images."""
        place = self.removals.index(removal)

        def lead(curves: Tensor) -> Tensor:
            areas = _means(curves)
            return areas[:, place, None] - areas

        return self.predictions.estimate(metric, lead, level=level)

    def per_image(self) -> Tensor:
        """Return the share (N, R) of answers of each image that are those to the whole image."""
        return (self.predicted == self.whole[..., None]).double().mean((-2, -1))


def _means(curves: Tensor) -> Tensor:
    return curves.mean((-2, -1))


@dataclass(frozen=True)
class Measured:
    """A metric under a setting, by removal: the `points` of the curve, its `area`, and the area less that of
    the first removal, for which there is no `difference`.
    """

    points: list[Estimate]
    area: Estimate
    difference: Estimate | None


def measure(answers: SegmentAnswers, metric: str, rule: Rule) -> dict[str, Measured]:
    """Measure the removals under one setting, all by the same resamples of the images."""
    count, stages = len(answers.removals), len(answers.fractions)

    def numbers(curves: Tensor) -> Tensor:
        """Return (B, numbers): all points, the areas, and the areas of the others less the first one's."""
        areas = area(curves[:, :, 0], answers.predictions.fractions, rule)
        return torch.cat([curves.flatten(1), areas, areas[:, 1:] - areas[:, :1]], 1)

    found = answers.predictions.estimate(metric, numbers).each()
    points, areas = found[: count * stages], found[count * stages :]
    differences = [None, *areas[count:]]
    return {
        name: Measured(points[place * stages : (place + 1) * stages], areas[place], differences[place])
        for place, name in enumerate(answers.removals)
    }


def read_answers(columns: Columns) -> SegmentAnswers:
    """Arrange the rows of segment removal; the order of rows does not matter.

    Raises:
        InputError: not every image has one row per removal, setting and share hidden.
    """
    settings = zip(*(columns[key].tolist() for key in ("segmentation", "order", "ranking")), strict=True)
    axes: list[list[Any]] = [
        columns["image"].tolist(),
        columns["removal"].tolist(),
        list(settings),
        columns["fraction"].tolist(),
    ]
    names = [list(dict.fromkeys(axis)) for axis in axes]
    names[-1].sort()
    place = _places(axes, names)
    shape = [len(each) for each in names]
    if len(place) != torch.tensor(shape).prod() or len(place.unique()) < len(place):
        raise InputError(
            f"{len(place)} rows for {' × '.join(map(str, shape))} answers: run the experiment again"
        )
    order = place.argsort().numpy()

    def block(name: str) -> Tensor:
        return torch.from_numpy(columns[name][order]).view(shape)

    predicted = block("prediction").long()
    found = Predictions(
        predicted,
        torch.tensor(names[-1], dtype=torch.float64),
        block("label")[:, 0, 0, 0].long(),
        _whole(predicted, block("unchanged")),
    )
    images, removals, chosen, _ = names
    return SegmentAnswers(images, removals, chosen, found, block("confidence"))


def _places(axes: Sequence[Sequence[Hashable]], names: Sequence[Sequence[Hashable]]) -> Tensor:
    """Return the place of each row in a block whose axes have these names."""
    place = torch.zeros(len(axes[0]), dtype=torch.int64)
    for axis, known in zip(axes, names, strict=True):
        numbers = {name: number for number, name in enumerate(known)}
        place = place * len(known) + torch.tensor([numbers[name] for name in axis])
    return place


def _whole(predicted: Tensor, unchanged: Tensor) -> Tensor:
    """Return the classes (...) with nothing hidden, from those (..., K) at which a prediction is unchanged.

    Nothing hidden need not be among the fractions; where all predictions changed, a class that none is.
    """
    first = unchanged.byte().argmax(-1, keepdim=True)
    return torch.where(unchanged.any(-1), predicted.gather(-1, first)[..., 0], predicted.max() + 1)
