"""Insertion and deletion curves: what the model says as segments are shown or hidden, by their score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields, checked
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import Output, Segments, asker, check_finite, output_kind


@dataclass(frozen=True)
class Curve:
    """What the model says of each target, `values` (T, K), at `shares` (K,) of segments shown or hidden."""

    shares: Tensor
    values: Tensor
    order: str
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        check_fields(
            self,
            shares=partial(kinds.values, ndim=1),
            values=partial(kinds.values, ndim=2),
            order=kinds.text,
            targets=partial(kinds.several, kind=kinds.index),
        )

    def area(self) -> Tensor:
        """Return the (T,) areas (trapezoids): that of insertion should be large, that of deletion small."""
        return torch.trapezoid(self.values, self.shares, dim=1)


@checked(
    removal=kinds.removal,
    image=kinds.image,
    attribution=partial(kinds.instance, kind=Attribution),
    order=partial(kinds.choice, known=("insertion", "deletion")),
    steps=kinds.count,
    perturbations_per_eval=kinds.count,
    output=output_kind,
)
def curve(
    removal: Callable[..., Any],
    image: Tensor,
    attribution: Attribution,
    order: Literal["insertion", "deletion"] = "insertion",
    steps: int = 20,
    *,
    perturbations_per_eval: int = 32,
    output: Output = "probability",
) -> Curve:
    """Show or hide the segments of `attribution`, the highest score first (Petsiuk et al. 2018).

    image (1, C, *S). `steps` points after the first, at equal numbers of segments; each target has its order.

    Raises:
        InputError: an argument has no such value, or the model's answers cannot be used.
    """
    count = attribution.scores.shape[1]
    numbers = torch.linspace(0, count, min(steps, count) + 1).round()
    place = attribution.scores.argsort(dim=1, descending=True, stable=True).argsort(1)
    moved = place[:, None] < numbers[:, None]  # (T, K, S)
    rows = (moved if order == "insertion" else ~moved).flatten(0, 1)
    segments, forward = Segments(attribution.segments, image.device), asker(removal, output)
    outputs = torch.cat([forward(image, segments.masks(part)) for part in rows.split(perturbations_per_eval)])
    check_finite(outputs)
    picked = outputs.unflatten(0, (len(place), -1)).double().cpu()  # (T, K, classes)
    values = torch.stack([each[:, target] for each, target in zip(picked, attribution.targets, strict=True)])
    return Curve(numbers.double() / count, values, order, attribution.targets)
