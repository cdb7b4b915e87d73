"""The answers of segment removal as one block of classes, and what they are worth per removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.metrics.bootstrap import Interval, bootstrap
from layermask.metrics.predictions import PREDICTION_METRICS

if TYPE_CHECKING:
    import numpy as np

AXES = ("image", "removal", "segmentation", "fraction")


@dataclass(frozen=True)
class Answers:
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


def read_answers(columns: dict[str, np.ndarray], metrics: tuple[str, ...]) -> Answers:
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
    return Answers(
        names["image"],
        names["removal"],
        names["segmentation"],
        names["fraction"],
        block("prediction").long(),
        block("confidence"),
        labels,
        metrics,
    )
