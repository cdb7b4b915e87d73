"""Metrics of predicted classes while more and more of each image is removed (paper, section 4.1).

`predicted` is (N, *K): for N images the classes predicted at K stages. Every metric returns (*K), or
(B, *K) for `weights` (B, N), how often each image counts; see `bootstrap`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields, checked
from layermask.errors import InputError
from layermask.io.notebook import card
from layermask.metrics.bootstrap import Estimate, average, bootstrap
from layermask.metrics.wordnet import similarity

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Rule = Literal["mean", "trapezoid"]
_WEIGHTS = kinds.optional(partial(kinds.values, ndim=2, finite=True))


@checked(weights=_WEIGHTS)
def accuracy(
    predicted: Int[Tensor, " N *K"], labels: Int[Tensor, " N"], *, weights: Float[Tensor, "B N"] | None = None
) -> Float[Tensor, " ..."]:
    """Return the share of images predicted as `labels` (N,)."""
    return average(predicted == _beside(predicted, labels, "labels"), weights)


@checked(weights=_WEIGHTS)
def unchanged(
    predicted: Int[Tensor, " N *K"], whole: Int[Tensor, " N"], *, weights: Float[Tensor, "B N"] | None = None
) -> Float[Tensor, " ..."]:
    """Return the share of images predicted as with nothing removed, `whole` (N,)."""
    return average(predicted == _beside(predicted, whole, "whole"), weights)


@checked(weights=_WEIGHTS)
def wordnet_similarity(
    predicted: Int[Tensor, " N *K"], labels: Int[Tensor, " N"], *, weights: Float[Tensor, "B N"] | None = None
) -> Float[Tensor, " ..."]:
    """Return the mean Wu-Palmer similarity of the predicted ImageNet classes and `labels` (N,)."""
    return average(similarity(predicted, _beside(predicted, labels, "labels")), weights)


@checked(weights=_WEIGHTS)
def class_entropy(
    predicted: Int[Tensor, " N *K"], *, weights: Float[Tensor, "B N"] | None = None
) -> Float[Tensor, " ..."]:
    """Return −Σ p ln(p + 1e-7), p the shares of the classes predicted: ln(classes) at most, 0 if one only."""
    predicted = kinds.classes("predicted", predicted)
    stages = predicted.flatten(1) if predicted.ndim > 1 else predicted[:, None]
    counts = torch.ones(1, len(stages), dtype=torch.float64) if weights is None else weights
    found = torch.stack([_entropy(stage.cpu(), counts) for stage in stages.T], 1)
    found = found.view(len(counts), *predicted.shape[1:])
    return found[0] if weights is None else found


def _entropy(classes: Tensor, weights: Tensor) -> Tensor:
    seen, place = classes.unique(return_inverse=True)
    counts = weights.new_zeros(len(weights), len(seen)).index_add_(1, place, weights)
    shares = counts / weights.sum(1, keepdim=True)
    return -(shares * (shares + 1e-7).log()).sum(1)


@checked(
    values=kinds.values,
    fractions=partial(kinds.values, ndim=1, finite=True),
    rule=partial(kinds.choice, known=get_args(Rule)),
)
def area(
    values: Float[Tensor, "*B K"], fractions: Float[Tensor, " K"], rule: Rule = "mean"
) -> Float[Tensor, "*B"]:
    """Return the area under values (..., K) at rising `fractions` (K,), over the span of the fractions.

    "mean" is the arithmetic mean of the points, as the paper's released code has it.
    """
    if values.shape[-1:] != fractions.shape or not bool((fractions.diff() > 0).all()):
        raise InputError(
            f"values {tuple(values.shape)} at fractions {fractions.tolist()}: give rising fractions, one each"
        )
    if rule == "mean" or len(fractions) == 1:
        return values.mean(-1)
    fractions = fractions.to(values)
    return torch.trapezoid(values, fractions, dim=-1) / (fractions[-1] - fractions[0])


def _beside(predicted: Tensor, classes: Tensor, name: str) -> Tensor:
    """Return classes (N, ...) shaped to compare with predicted (N, ..., *K), after checking both."""
    kinds.classes("predicted", predicted)
    kinds.classes(name, classes)
    if classes.shape != predicted.shape[: classes.ndim]:
        raise InputError(
            f"{name} of shape {tuple(classes.shape)} for predicted {tuple(predicted.shape)}: "
            f"give {len(predicted)}, one per image"
        )
    return classes.to(predicted.device).view(*classes.shape, *[1] * (predicted.ndim - classes.ndim))


@dataclass(frozen=True)
class PredictionMetric:
    """A metric of predicted classes: its function, what it compares them with, and which way is better.

    `center`: see `bootstrap`.
    """

    function: Callable[..., Tensor]
    against: Literal["labels", "whole", ""]
    higher_is_better: bool
    center: bool = False


PREDICTION_METRICS: dict[str, PredictionMetric] = {
    "accuracy": PredictionMetric(accuracy, "labels", True),
    "class-entropy": PredictionMetric(class_entropy, "", True, center=True),
    "wordnet-similarity": PredictionMetric(wordnet_similarity, "labels", True),
    "unchanged": PredictionMetric(unchanged, "whole", True),
}


@dataclass(frozen=True)
class Predictions:
    """The classes `predicted` (N, *L, K) of N images at `fractions` (K,) removed, rising from 0.

    *L, where there are such axes: removal operators, segmentations, or whatever else is compared. `labels`
    (N,) where known; `whole` (N, *L) or (N,), the classes with nothing removed, are by default those at
    fraction 0; `classes` is the model's number of classes.
    """

    predicted: Int[Tensor, "N K"]
    fractions: Float[Tensor, " K"]
    labels: Int[Tensor, " N"] | None = None
    whole: Int[Tensor, " N"] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            predicted=kinds.tensor,
            fractions=partial(kinds.values, ndim=1, finite=True),
            classes=kinds.optional(kinds.count),
        )
        if self.predicted.ndim < 2 or self.predicted.shape[-1:] != self.fractions.shape:
            raise InputError(
                f"predicted {tuple(self.predicted.shape)} at fractions {tuple(self.fractions.shape)}: give "
                "(N, K) and (K,)"
            )
        known = partial(kinds.classes, most=self.classes)
        check_fields(self, predicted=known, labels=kinds.optional(known), whole=kinds.optional(known))

    def __repr__(self) -> str:
        """One line, whatever the number of images."""
        known = [name for name in ("labels", "whole") if getattr(self, name) is not None]
        return (
            f"Predictions({', '.join([f'predicted {tuple(self.predicted.shape)}', self._shares(), *known])})"
        )

    def _repr_html_(self) -> str:
        """What notebooks show: how much was asked, and the metrics that need no more, at each fraction."""
        facts = {"predicted": tuple(self.predicted.shape), "removed": self._shares()}
        for name in ("accuracy", "unchanged", "class-entropy"):
            with contextlib.suppress(InputError):  # there are no labels, or nothing that was whole
                rows = self.curve(name).reshape(-1, len(self.fractions)).tolist()
                facts[name] = "; ".join(" ".join(f"{value:.3f}" for value in row) for row in rows)
        return card("Predictions", facts)

    def _shares(self) -> str:
        low, high = float(self.fractions[0]), float(self.fractions[-1])
        return f"{len(self.fractions)} fractions from {low:g} to {high:g}"

    def curve(self, metric: str, *, weights: Float[Tensor, "B N"] | None = None) -> Float[Tensor, "*B K"]:
        """Return the metric at each fraction: (*L, K), or (B, *L, K) for weights (B, N)."""
        entry = PREDICTION_METRICS[kinds.known("metric", metric, PREDICTION_METRICS)]
        against = [self._classes(entry.against)] if entry.against else []
        return entry.function(self.predicted, *against, weights=weights)

    def _classes(self, name: str) -> Tensor:
        found = getattr(self, name)
        if found is None and name == "whole" and float(self.fractions[0]) == 0:
            return self.predicted[..., 0]
        if found is None:
            raise InputError(
                f"this metric needs {name} ({len(self.predicted)},), and there are none here: give them, "
                "or predictions at fraction 0 for whole"
            )
        return found

    def area(self, metric: str, rule: Rule = "mean", *, weights: Tensor | None = None) -> Tensor:
        """Return the area under the curve of the metric: (*L), or (B, *L) for weights (B, N)."""
        return area(self.curve(metric, weights=weights), self.fractions, rule)

    def interval(
        self,
        metric: str,
        rule: Rule = "mean",
        *,
        level: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> Estimate:
        """Return the area under the curve of the metric, (*L), with its bootstrap bounds over images."""
        return self.estimate(
            metric,
            lambda curves: area(curves, self.fractions, rule),
            level=level,
            n_resamples=n_resamples,
            seed=seed,
        )

    def estimate(self, metric: str, of: Callable[[Tensor], Tensor], **settings: Any) -> Estimate:
        """Return what `of` makes of the curves (B, *L, K) of a metric, with its bounds; see `bootstrap`."""
        center = PREDICTION_METRICS[kinds.known("metric", metric, PREDICTION_METRICS)].center
        return bootstrap(
            lambda weights: of(self.curve(metric, weights=weights)),
            len(self.predicted),
            center=center,
            **settings,
        )
