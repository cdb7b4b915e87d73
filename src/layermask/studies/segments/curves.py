"""The curves of segment removal, from its rows: metrics of predictions, with intervals over images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layermask.metrics.estimates import estimates
from layermask.metrics.predictions import PREDICTION_METRICS, Predictions, Rule, area
from layermask.metrics.wordnet import are_imagenet
from layermask.render.table import Estimate
from layermask.studies.registry import Columns, Content

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
