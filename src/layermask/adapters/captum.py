"""Captum's perturbation methods over any removal: what they perturb is the mask, not the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.adapters.arguments import Removal
from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.removal.gaps import Valid, never_visible
from layermask.removal.query import asking, extra_inputs, query
from layermask.removal.reading import Output, output_kind
from layermask.removal.targets import Columns, Targets, items, target_kind


@checked(
    removal=kinds.removal,
    images=kinds.images,
    output=output_kind,
    target=target_kind,
    valid=kinds.valid,
)
def as_captum(
    removal: Removal,
    images: Tensor,
    feature_mask: Any = None,
    output: Output = "logit",
    *,
    target: Targets = None,
    additional_forward_args: Any = None,
    valid: Valid = None,
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """Return (forward, arguments) for `Method(forward).attribute(**arguments, target=..., ...)`.

    Serves FeatureAblation, Occlusion, ShapleyValueSampling, KernelShap, Lime and all others that switch
    features on and off, with any `perturbations_per_eval`. Attributions are (N, 1, *S), as the mask.

    Args:
        removal: `removal(images, visible) -> scores`.
        images: (N, C, *S) float.
        feature_mask: segment numbers *S, or (1 or N, 1, *S); None where each pixel is a feature, and for
            Occlusion, which takes windows over the mask, as `sliding_window_shapes=(1, 16, 16)`.
        output: what is made of the model's answers, as that of explainers.
        target: a class by name, a `Region`, `Box`, `Similarity` or function, one or several: captum then
            sees these alone, and numbers them from 0.
        additional_forward_args: what the model takes besides the images, tensors (N, ...).
        valid: the pixels that may be visible, bool (*S) or (N or 1, 1, *S), or "nan" for those without NaN.
            captum scores the others too, as pixels that change nothing.

    Raises:
        InputError: shapes that do not fit; when called, a mask that is not 0 and 1 throughout.
    """
    removal, images = never_visible(removal, images, valid)
    # One image stays in the closure, where captum cannot copy it for every perturbation. Several travel with
    # the masks: Lime explains them one by one and says which only by what it passes on.
    several = () if len(images) == 1 else (images,)
    passed = (*several, *extra_inputs(additional_forward_args, len(images), removal))
    wanted = items("target", target, removal)
    ask = query(removal, output, targets=[] if wanted is None else Columns.of_all(wanted))

    def forward(mask: Tensor, *given: Tensor) -> Tensor:
        if len(given) != len(passed):
            raise InputError("captum passed masks without their images: give it all arguments of as_captum")
        own, *more = given if several else (images, *given)
        shown = own.expand(len(mask), *own.shape[1:])  # one image is shared by all masks, without copies
        (scores,) = asking(ask, [(shown, _visible(mask), *more)])
        return scores[:, 0] if wanted is not None and len(wanted) == 1 else scores

    arguments: dict[str, Any] = {"inputs": images.new_ones(len(images), 1, *images.shape[2:]), "baselines": 0}
    if passed:
        arguments["additional_forward_args"] = passed
    if feature_mask is not None:
        arguments["feature_mask"] = _labels(feature_mask, images)
    return forward, arguments


def lime_similarity(kernel_width: float = 0.25) -> Callable[..., Tensor]:
    """Return the similarity_func for captum's Lime that weighs samples as the package lime 0.2 does.

    The cosine distance d is between rows of segments shown, not between images, and the weight is
    exp(-d²/kernel_width²)^½; captum's own default is another, over the pixels of its inputs.
    """
    kernel_width = kinds.number("kernel_width", kernel_width, above=0)

    def similarity(original: Any, perturbed: Any, shown: Tensor, **unused: Any) -> Tensor:
        distance = 1 - shown.double().mean().sqrt()  # the cosine of a 0/1 row with ones: root of its share
        return (-(distance**2) / kernel_width**2).exp().sqrt()

    return similarity


_ADVICE = (
    "use baselines=0 and a method that switches features on and off, such as FeatureAblation, Occlusion, "
    "ShapleyValueSampling, KernelShap or Lime"
)


def _visible(mask: Tensor) -> Tensor:
    if mask.requires_grad and torch.is_grad_enabled():
        raise InputError(f"captum wants the gradient of the mask, which is 0 or 1 and has none: {_ADVICE}")
    odd = (mask != 0) & (mask != 1)
    if bool(odd.any()):
        raise InputError(
            f"captum passed a mask with {int(odd.sum())} values other than 0 and 1 (the first is "
            f"{mask[odd][0].item():g}): {_ADVICE}"
        )
    return mask != 0


def _labels(feature_mask: Any, images: Tensor) -> Tensor:
    """Return (1 or N, 1, *S) labels, each from 0 without gaps: captum counts features by the largest."""
    labels = kinds.label_map("feature_mask", feature_mask)
    sizes = images.shape[2:]
    if labels.shape == sizes:
        labels = labels[None, None]
    if labels.shape not in {(1, 1, *sizes), (len(images), 1, *sizes)}:
        raise InputError(
            f"feature_mask is {labels.dtype} of {tuple(labels.shape)}, expected integers of {tuple(sizes)} "
            f"or ({len(images)} or 1, 1, {', '.join(map(str, sizes))}): segment what the model sees"
        )
    return torch.stack([torch.unique(own, return_inverse=True)[1] for own in labels]).to(images.device)
