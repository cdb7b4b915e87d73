"""The paper's experiment of section 4.1: remove more and more segments, and see what the model predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.explain.query_plan import QueryPlan, Segments, run
from layermask.metrics.measure import maps_of
from layermask.metrics.operators import random_scores
from layermask.metrics.predictions import Predictions
from layermask.removal.gaps import Valid, never_visible, valid_pixels
from layermask.removal.query import ProgressCallback, progress, query

TENTHS = tuple(number / 10 for number in range(11))


@checked(
    removal=kinds.removal,
    images=kinds.images,
    labels=kinds.optional(kinds.classes),
    order=kinds.optional(partial(kinds.several, kind=partial(kinds.values, ndim=1))),
    fractions=partial(kinds.numbers, low=0, high=1),
    seed=kinds.seed,
    first=kinds.index,
    perturbations_per_eval=kinds.count,
    show_progress=kinds.progress,
    valid=kinds.valid,
)
def remove_segments(
    removal: Callable[..., Any],
    images: Tensor,
    feature_masks: Sequence[Any],
    labels: Tensor | None = None,
    *,
    order: Sequence[Tensor] | None = None,
    fractions: Sequence[float] = TENTHS,
    seed: int = 0,
    first: int = 0,
    perturbations_per_eval: int = 32,
    show_progress: ProgressCallback = False,
    valid: Valid = None,
) -> Predictions:
    """Return the classes predicted for images (N, C, *S) with fractions of their segments removed.

    int(fraction · segments) are removed, those of highest `order` first, scores (segments,) of each image:
    saliency, or its negative for the least salient first; by default in random order. Random orders depend on
    `seed` and the image's number, counted from `first`, so that a run may be split into batches of images.
    `valid`: the pixels that may be visible, as of explainers; the others are in no segment.
    """
    shown = None if valid is None else valid_pixels(images, valid)
    removal, images = never_visible(removal, images, shown)
    segments = [Segments(labels_, images.device) for labels_ in maps_of(images, feature_masks, shown)]
    if order is not None and [tuple(each.shape) for each in order] != [(each.count,) for each in segments]:
        raise InputError(
            f"order is {[tuple(each.shape) for each in order][:5]} for images of "
            f"{[each.count for each in segments][:5]} segments: give each image a score for each segment"
        )
    numbered = enumerate(segments, first)
    scores = order or [random_scores(1, each.count, seed, number)[0] for number, each in numbered]
    plans = [_plan(*each, fractions) for each in zip(segments, scores, strict=True)]
    with progress(show_progress, "removing segments", len(images) * len(fractions)) as advance:
        ask = query(removal, "logit", compared=True)
        found = run(plans, images, [[0]] * len(images), ask, perturbations_per_eval, advance)
    return Predictions(torch.stack(found), torch.tensor(fractions, dtype=torch.float64), labels)


def how_many(fraction: float, segments: int) -> int:
    """Return how many of the segments a fraction is, rounded down."""
    return int(fraction * segments + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _plan(segments: Segments, scores: Tensor, fractions: Sequence[float]) -> QueryPlan:
    numbers = torch.tensor([how_many(fraction, segments.count) for fraction in fractions])
    place = scores.cpu().argsort(descending=True, stable=True).argsort()
    answers = yield segments.show(place >= numbers[:, None])
    return answers.top
