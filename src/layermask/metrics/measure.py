"""How metrics ask a removal operator: plans of `explain.query_plan`, which fill batches across images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import QueryPlan, Segments, run
from layermask.removal.gaps import Valid, never_visible, valid_pixels
from layermask.removal.query import Forward, ProgressCallback, answers, batches, extra_inputs, progress, query
from layermask.removal.reading import Output, output_kind
from layermask.removal.targets import Columns
from layermask.segment.labels import NOWHERE, relabel

Planner = Callable[[Segments, Tensor], QueryPlan]  # the segments and the scores (T, S) of one image


@checked(
    removal=kinds.removal,
    images=kinds.images,
    attributions=partial(kinds.instances, kind=Attribution),
    perturbations_per_eval=kinds.count,
    output=output_kind,
    show_progress=kinds.progress,
    valid=kinds.valid,
)
def measure(
    planner: Planner,
    removal: Callable[..., Any],
    images: Tensor,
    attributions: Sequence[Attribution],
    count: int,
    *,
    perturbations_per_eval: int = 32,
    output: Output = "probability",
    show_progress: ProgressCallback = False,
    additional_forward_args: Any = None,
    valid: Valid = None,
) -> list[Any]:
    """Return what `planner`'s plans return, one for each image of (N, C, *S) and its attribution.

    A plan asks for about `count` masks. Memory follows `perturbations_per_eval`, the masks in one forward
    pass, which may span images; results do not depend on it. `output`, `additional_forward_args` and `valid`
    are those of the explainer; pixels that an attribution has in no segment are never shown either.

    Raises:
        InputError: images, attributions or settings do not go together, or the answers are not finite.
    """
    if len(attributions) != len(images):
        raise InputError(f"{len(attributions)} attributions for {len(images)} images: give one for each")
    plans = [_plan(planner, each, images) for each in attributions]
    more = extra_inputs(additional_forward_args, len(images), removal)
    removal, images = never_visible(removal, images, shown_by(images, attributions, valid))
    columns = Columns([list(each.targets) for each in attributions])
    forward = query(removal, output, targets=columns.read)
    if not columns.read:
        forward = _with_classes(forward, columns.wanted)
    places = [columns.picked(i) for i in range(len(images))]
    with progress(show_progress, "metric", count * len(images)) as advance:
        return run(plans, images, places, forward, perturbations_per_eval, advance, more)


def _plan(planner: Planner, attribution: Attribution, images: Tensor) -> QueryPlan:
    labels, scores = attribution.segments, attribution.scores
    if labels.shape != images.shape[2:]:
        raise InputError(
            f"an attribution is of an image {tuple(labels.shape)} and the images are {tuple(images.shape)}: "
            "give the images it explains"
        )
    segments = Segments(labels.cpu(), images.device)
    if scores.shape != (len(attribution.targets), segments.count) or not bool(scores.isfinite().all()):
        raise InputError(
            f"scores are {tuple(scores.shape)}, {int(scores.isfinite().sum())} of them finite, for "
            f"{len(attribution.targets)} targets and {segments.count} segments: give a finite score for each"
        )
    return planner(segments, scores.double().cpu())


def shown_by(images: Tensor, attributions: Sequence[Attribution], valid: Valid = None) -> Tensor | None:
    """Return the pixels that may be visible, (N, 1, *S) bool, by `valid` and by the attributions."""
    inside = torch.stack([each.segments != NOWHERE for each in attributions])[:, None].to(images.device)
    if valid is None:
        return None if bool(inside.all()) else inside
    return valid_pixels(images, valid) & inside


def _with_classes(forward: Forward, targets: Sequence[Any]) -> Forward:
    """Refuse targets that the model does not have, as soon as it answers."""
    named = [target for each in targets for target in each]

    def ask(images: Tensor, visible: Tensor, *more: Any) -> Tensor:
        outputs = forward(images, visible, *more)
        if min(named) < 0 or max(named) >= outputs.shape[1]:
            raise InputError(
                f"targets go from {min(named)} to {max(named)}: the model has the classes 0 to "
                f"{outputs.shape[1] - 1}"
            )
        return outputs

    return ask


def classes_of(
    removal: Callable[..., Any],
    images: Tensor,
    visible: Tensor,
    batch_size: int,
    advance: Callable[[int], None] = lambda done: None,
    compared: bool = True,
) -> Tensor:
    """Return the (N,) classes predicted for images (N or 1, C, *S) under masks (N, 1, *S), on the CPU.

    `compared`: they are to be compared with others, and a model of one class is refused.
    """
    asked = batches(images, visible, batch_size)
    return torch.cat(
        [logits.argmax(1).cpu() for logits in answers(removal, asked, "logit", compared, advance)]
    )


def maps_of(images: Tensor, feature_masks: Sequence[Any], valid: Tensor | None = None) -> list[Tensor]:
    """Return the label maps (*S) of images (N, C, *S), relabelled from 0 without gaps.

    Where `valid` (N or 1, 1, *S) bool is False, pixels are in no segment.
    """
    feature_masks = kinds.sequence("feature_masks", feature_masks)
    if len(feature_masks) != len(images):
        raise InputError(f"{len(feature_masks)} feature_masks for {len(images)} images: give one for each")
    maps = [kinds.label_map("feature_masks", mask).cpu() for mask in feature_masks]
    for labels in maps:
        if labels.shape != images.shape[2:]:
            raise InputError(
                f"a feature_mask is {tuple(labels.shape)} and the images {tuple(images.shape)}: segment what "
                "the model sees, the preprocessed image"
            )
    if valid is None:
        return [relabel(labels) for labels in maps]
    shown = valid[:, 0].expand(len(images), *images.shape[2:])
    return [relabel(labels, each) for labels, each in zip(maps, shown.cpu(), strict=True)]


def stacked(found: list[Tensor]) -> Tensor:
    """Return results (T, ...) of N images as (N, T, ...)."""
    if len({each.shape for each in found}) > 1:
        shapes = sorted({tuple(each.shape) for each in found})
        raise InputError(
            f"the images give results of the shapes {shapes}: give attributions of equally many targets"
        )
    return torch.stack(found)
