"""Hiding or showing segments in the order of their scores: what the answers along the way say of the scores.

Every metric takes images (N, C, *S), an attribution each, and the settings of `measure`: the masks in one
forward pass (`perturbations_per_eval`), `output`, `show_progress`. It returns (N, T) float64, one number for
each target; `steps` masks after the first, at equal numbers of segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields, checked
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import Query, QueryPlan, Segments
from layermask.metrics.measure import measure, stacked
from layermask.removal.painting import NoisyLinearFill
from layermask.removal.targets import known_target

if TYPE_CHECKING:
    from jaxtyping import Float

Order = Literal["insertion", "deletion", "lerf"]
Removing = Callable[..., Any]


@checked(
    removal=kinds.removal,
    images=kinds.images,
    attributions=partial(kinds.instances, kind=Attribution),
    order=partial(kinds.choice, known=get_args(Order)),
    steps=kinds.count,
)
def flipping_curves(
    removal: Removing,
    images: Tensor,
    attributions: Sequence[Attribution],
    order: Order = "deletion",
    steps: int = 20,
    **settings: Any,
) -> list[Curve]:
    """Return the curves of N images, each target in its own order.

    "deletion" hides the most relevant segments first (MoRF), "lerf" the least relevant first, and
    "insertion" shows the most relevant first (Samek et al. 2017; Petsiuk et al. 2018).

    Raises:
        InputError: an argument has no such value, or the model's answers cannot be used.
    """

    def planner(segments: Segments, scores: Tensor) -> QueryPlan:
        return _curve(segments, scores, order, steps)

    targets = max((len(each.targets) for each in attributions), default=1)
    found = measure(planner, removal, images, attributions, (steps + 1) * targets, **settings)
    return [
        Curve(shares, values, order, each.targets)
        for (shares, values), each in zip(found, attributions, strict=True)
    ]


def _curve(segments: Segments, scores: Tensor, order: Order, steps: int) -> QueryPlan:
    numbers = torch.linspace(0, segments.count, min(steps, segments.count) + 1).round()
    place = scores.argsort(dim=1, descending=order != "lerf", stable=True).argsort(1)

    # made when asked for: with pixels for segments, the rows are larger than the image
    def visible(start: int, stop: int) -> Tensor:
        row = torch.arange(start, stop)
        moved = place[row // len(numbers)] < numbers[row % len(numbers), None]
        return segments.masks(moved if order == "insertion" else ~moved)

    answers = yield Query(len(scores) * len(numbers), visible)
    values = answers.values.unflatten(0, (len(scores), -1))  # (T, K, T): each order asked of each target
    return numbers.double() / segments.count, values.diagonal(dim1=0, dim2=2).T


def insertion(removal: Removing, images: Tensor, attributions: Sequence[Attribution], **settings) -> Tensor:
    """Return the area under the curve that shows the highest scores first (Petsiuk et al. 2018)."""
    return _areas(removal, images, attributions, "insertion", settings)


def deletion(removal: Removing, images: Tensor, attributions: Sequence[Attribution], **settings) -> Tensor:
    """Return the area under the curve that hides the highest scores first: MoRF (Samek et al. 2017)."""
    return _areas(removal, images, attributions, "deletion", settings)


def least_relevant_first(
    removal: Removing, images: Tensor, attributions: Sequence[Attribution], **settings
) -> Tensor:
    """Return the area under the curve that hides the lowest scores first: LeRF (Samek et al. 2017)."""
    return _areas(removal, images, attributions, "lerf", settings)


def symmetric_relevance_gain(
    removal: Removing, images: Tensor, attributions: Sequence[Attribution], **settings
) -> Tensor:
    """Return SRG, the LeRF area less the MoRF area (Bluecher et al. 2024, arXiv 2401.06654).

    Scores without meaning get 0 on average whatever the removal operator does to the answers.
    """
    return least_relevant_first(removal, images, attributions, **settings) - deletion(
        removal, images, attributions, **settings
    )


@checked(model=kinds.model, order=partial(kinds.choice, known=("morf", "lerf")))
def road(
    model: nn.Module,
    images: Tensor,
    attributions: Sequence[Attribution],
    order: Literal["morf", "lerf"] = "morf",
    **settings,
) -> Tensor:
    """Return the MoRF or LeRF area with noisy linear imputation (ROAD, Rong et al. 2022, arXiv 2202.00449).

    `model` is the plain model: what hidden pixels become is part of the metric.
    """
    hidden_first: Order = "deletion" if order == "morf" else "lerf"
    return _areas(NoisyLinearFill(model), images, attributions, hidden_first, settings)


def _areas(removal, images, attributions, order: Order, settings: dict[str, Any]) -> Tensor:
    return stacked(
        [each.area() for each in flipping_curves(removal, images, attributions, order, **settings)]
    )


@dataclass(frozen=True)
class Curve:
    """What the model says of each target, `values` (T, K), at `shares` (K,) of segments shown or hidden."""

    shares: Float[Tensor, " K"]
    values: Float[Tensor, "T K"]
    order: str
    targets: tuple[Any, ...]

    def __post_init__(self) -> None:
        check_fields(
            self,
            shares=partial(kinds.values, ndim=1),
            values=partial(kinds.values, ndim=2),
            order=kinds.text,
            targets=partial(kinds.several, kind=known_target),
        )

    def area(self) -> Float[Tensor, " T"]:
        """Return the (T,) areas (trapezoids): that of insertion should be large, that of deletion small."""
        return torch.trapezoid(self.values, self.shares, dim=1)


@checked(
    image=kinds.image,
    attribution=partial(kinds.instance, kind=Attribution),
    order=partial(kinds.choice, known=("insertion", "deletion")),
)
def curve(
    removal: Removing,
    image: Float[Tensor, "1 C *S"],
    attribution: Attribution,
    order: Literal["insertion", "deletion"] = "insertion",
    steps: int = 20,
    **settings: Any,
) -> Curve:
    """Show or hide the segments of `attribution`, the highest score first (Petsiuk et al. 2018).

    image (1, C, *S). `steps` points after the first, at equal numbers of segments; each target has its order.
    Of many images: `flipping_curves`, with the same settings.

    Raises:
        InputError: an argument has no such value, or the model's answers cannot be used.
    """
    return flipping_curves(removal, image, [attribution], order, steps, **settings)[0]
