"""Do an explainer's scores lie on the object? The three metrics of the paper's Table 2 (section 4.4).

One image: `scores` (S,) of its segments (*S), and its object mask (*S), bool or shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.metrics.measure import classes_of, shown_by
from layermask.removal.gaps import never_visible
from layermask.removal.query import ProgressCallback, progress
from layermask.segment.labels import NOWHERE, spread, sum_over

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped


@checked(scores=kinds.values, segments=kinds.label_map, mask=kinds.values)
def alignment(scores: Float[Tensor, " S"], segments: Int[Tensor, "*P"], mask: Shaped[Tensor, "*P"]) -> float:
    """Return cos(scores, g), g_i = Σ over segment i of (mask − mean(mask)), eps 1e-8: −1 to 1.

    Pixels in no segment, of label -1, do not count.
    """
    _check(scores, segments, mask)
    excess = (mask.double() - mask.double()[_inside(segments, mask)].mean()).to(scores.device)
    return float(cosine_similarity(scores.double(), sum_over(segments, excess), dim=0, eps=1e-8))


@checked(scores=kinds.values, segments=kinds.label_map, mask=kinds.values)
def top_k_jaccard(
    scores: Float[Tensor, " S"], segments: Int[Tensor, "*P"], mask: Shaped[Tensor, "*P"], k: int = 20
) -> float:
    """Return the overlap of the `k` highest segments (or all) and the mask, over their union.

    Areas in pixels; a pixel counts as object by its share in the mask, which need not be 0 or 1. Pixels in no
    segment, of label -1, do not count.
    """
    _check(scores, segments, mask)
    mask = torch.where(_inside(segments, mask), mask, 0)
    object_, region = mask.double().to(scores.device), spread(top_k(scores, k), segments, False).double()
    overlap = float((region * object_).sum())
    return overlap / float(region.sum() + object_.sum() - overlap)


@checked(scores=partial(kinds.values, ndim=1), k=kinds.count)
def top_k(scores: Float[Tensor, " S"], k: int) -> Bool[Tensor, " S"]:
    """Return (S,) bool, True for the `k` highest scores (S,), the positive end; the first of equal ones."""
    best = scores.argsort(descending=True, stable=True)[:k]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, best, True)


@checked(
    removal=kinds.removal,
    images=kinds.images,
    attributions=partial(kinds.instances, kind=Attribution),
    labels=kinds.classes,
    k=kinds.count,
    batch_size=kinds.count,
    show_progress=kinds.progress,
)
def top_k_ablation(
    removal: Callable[..., Any],
    images: Tensor,
    attributions: Sequence[Attribution],
    labels: Tensor,
    k: int = 20,
    row: int = 0,
    *,
    batch_size: int = 32,
    show_progress: ProgressCallback = False,
) -> Tensor:
    """Return which of N images (N, C, *S) are still right, (N,) bool, without their `k` highest segments.

    The mean is the paper's ablation accuracy, lower for better scores; there `removal` is always Greyout.
    `row`: the target of the attributions whose scores count.
    """
    if not len(images) == len(attributions) == len(labels):
        raise InputError(
            f"{len(images)} images, {len(attributions)} attributions, {len(labels)} labels: give equally many"
        )
    with progress(show_progress, "ablation", len(images)) as advance:
        found = classes_without_top(removal, images, attributions, k, row, batch_size, advance)
    return found == labels.cpu()


def classes_without_top(
    removal: Callable[..., Any],
    images: Tensor,
    attributions: Sequence[Attribution],
    k: int,
    row: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the classes (N,) predicted for images (N or 1, C, *S) without their `k` highest segments."""
    visible = torch.cat([_without_top(each, k, row) for each in attributions])
    if (shown := shown_by(images, attributions)) is not None:
        images = images.expand(len(shown), *images.shape[1:])
        removal, images = never_visible(removal, images, shown)
    return classes_of(removal, images, visible, batch_size, advance)


def _without_top(attribution: Attribution, k: int, row: int) -> Tensor:
    row = kinds.count("row", row, low=0, high=len(attribution.scores) - 1)
    return attribution.visible(~top_k(attribution.scores[row], k))


def _inside(segments: Tensor, mask: Tensor) -> Tensor:
    return (segments != NOWHERE).to(mask.device)


def _check(scores: Tensor, segments: Tensor, mask: Tensor) -> None:
    if scores.ndim != 1 or len(scores) != int(segments.max()) + 1 or not bool(scores.isfinite().all()):
        raise InputError(
            f"scores are {tuple(scores.shape)}, {int(scores.isfinite().sum())} of them finite, for "
            f"{int(segments.max()) + 1} segments: give a finite score (S,) for each"
        )
    if mask.shape != segments.shape:
        raise InputError(
            f"mask: the object mask is {tuple(mask.shape)} and the segments {tuple(segments.shape)}: resize "
            "the mask to what the model sees"
        )
    if float(mask.min()) < 0 or float(mask.max()) > 1 or not float(mask.max()):
        raise InputError(
            f"mask: the object mask of {tuple(mask.shape)} goes from {float(mask.min()):g} to "
            f"{float(mask.max()):g}: give shares from 0 to 1, and some object"
        )
