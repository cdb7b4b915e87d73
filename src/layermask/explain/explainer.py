"""What all explainers share: their arguments, the targets, and the way through batches of masks."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked, checked
from layermask.arguments.kinds import Count
from layermask.arguments.refusal import has, warn
from layermask.errors import InputError, nearest
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import QueryPlan, Segments, run
from layermask.removal.gaps import Valid, never_visible, valid_pixels
from layermask.removal.query import Forward, ProgressCallback, asking, batches, extra_inputs, progress, query
from layermask.removal.reading import Output, output_kind
from layermask.removal.targets import Columns, Targets, items, target_kind
from layermask.segment.labels import relabel

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Explainer(Checked, ABC):
    """Scores the segments of pictures by the answers of `removal(images, visible)` without them.

    `perturbations_per_eval`: masks in one forward pass; memory follows it, and results do not depend on it,
    up to the rounding of the model's kernels. Masks that show about as much share a pass.
    `output`: what of the model's scores is explained: "probability" (as the model shows it, else softmax
    with a warning), "softmax" (one class is right), "sigmoid" (one logit, or labels that do not exclude each
    other), "logit" (its numbers as they are), or a function of its answer that returns (N, K). See
    `removal.reading.OUTPUTS`.
    """

    removal: Annotated[Callable[..., Any], kinds.removal]
    _: dataclasses.KW_ONLY
    perturbations_per_eval: Count = 32
    output: Annotated[Output, output_kind] = "probability"

    name: ClassVar[str]
    needs_segments: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    """Whether it compares classes, so that the model needs two or more."""

    @abstractmethod
    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        """Ask for masks and return the fields of `Attribution` that the method finds.

        prediction (T,) is what the model says of the whole picture; see `query_plan`.
        """

    @abstractmethod
    def cost(self, segments: Segments) -> int:
        """Return about how many masks `plan` asks for, or at most asks for."""

    @checked(image=kinds.image, target=target_kind, valid=kinds.valid)
    def attribute(
        self,
        image: Float[Tensor, "1 C *S"],
        target: Targets = None,
        feature_mask: Any = None,
        show_progress: ProgressCallback = False,
        additional_forward_args: Any = None,
        *,
        valid: Valid = None,
        **settings: Any,
    ) -> Attribution:
        """Explain one image (1, C, *S) over its segments, `feature_mask` (*S) integers.

        `target`: a class by number or name, a `Region`, `Box` or `Similarity`, a function of the model's
        answer that returns (N,), or several; by default the two classes that the model finds most likely.
        `additional_forward_args`: what the model takes besides the images, in a tuple where that is more than
        one; tensors (1, ...) are expanded along with the masks, as in captum. `show_progress`: True for a
        bar, or a function to call with the number of masks just done.
        `valid`: the pixels that may be visible, bool (*S) or (1, 1, *S), or "nan" for those that hold no NaN;
        the others are never shown, and in no segment. `settings` replace those of the explainer for this
        call, as n_samples=500.

        Raises:
            InputError: what is given does not fit the image or the model; the message says how.
        """
        maps = None if feature_mask is None else [kinds.label_map("feature_mask", feature_mask)]
        more, made = additional_forward_args, self._with(settings) if settings else self
        return made.attribute_batch(image, [target], maps, show_progress, more, valid=valid)[0]

    @checked(images=kinds.images, show_progress=kinds.progress, valid=kinds.valid)
    def attribute_batch(
        self,
        images: Float[Tensor, "N C *S"],
        targets: Targets | Sequence[Targets] = None,
        feature_masks: Any = None,
        show_progress: ProgressCallback = False,
        additional_forward_args: Any = None,
        *,
        valid: Valid = None,
        **settings: Any,
    ) -> list[Attribution]:
        """Explain images (N, C, *S), each over its own segments; a forward pass may span several images.

        `targets`: one for each image, as in `attribute`; a single one is that of all images, as is a single
        label map (*S), in a tensor or an array, of `feature_masks`. Tensors of
        `additional_forward_args` are (N, ...); `valid` is bool (*S) or (N or 1, 1, *S), or "nan".
        """
        more = extra_inputs(additional_forward_args, len(images), self.removal)
        if settings:
            return self._with(settings).attribute_batch(
                images, targets, feature_masks, show_progress, more, valid=valid
            )
        if valid is None:
            return self._explained(images, targets, self._maps(images, feature_masks), show_progress, more)
        shown = valid_pixels(images, valid)
        removal, images = never_visible(self.removal, images, shown)
        maps = self._maps(images, feature_masks, shown.expand(len(images), *shown.shape[1:])[:, 0])
        return dataclasses.replace(self, removal=removal)._explained(
            images, targets, maps, show_progress, more
        )

    def _explained(
        self,
        images: Tensor,
        targets: Any,
        maps: list[Segments],
        show_progress: ProgressCallback,
        more: Sequence[Any],
    ) -> list[Attribution]:
        columns = self._columns(targets, len(images))
        # One query throughout: what the model's numbers are is recognised by those of the whole pictures.
        ask = query(self.removal, self.output, self.compares, columns.read)
        whole = self._whole(images, more, ask)
        picked = [columns.picked(i, len(row)) or self._likeliest(row) for i, row in enumerate(whole)]
        predictions = [row[places].double().cpu() for row, places in zip(whole, picked, strict=True)]
        self._expect(whole, picked)
        plans = [self.plan(*each) for each in zip(maps, predictions, picked, strict=True)]
        with progress(show_progress, self.name, sum(map(self.cost, maps))) as advance:
            found = run(plans, images, picked, ask, self.perturbations_per_eval, advance, more)
        shown = [columns.wanted[i] or places for i, places in enumerate(picked)]
        return [
            Attribution(
                segments=each.labels,
                targets=tuple(targets),
                prediction=prediction,
                method=self.name,
                settings=self.settings(),
                **fields,
            )
            for each, targets, prediction, fields in zip(maps, shown, predictions, found, strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """Return the settings that the scores depend on, besides the model and the picture."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "removal"}

    def _with(self, settings: dict[str, Any]) -> Explainer:
        known = [f.name for f in dataclasses.fields(self) if f.name != "removal"]
        if odd := [key for key in settings if key not in known]:
            near = nearest(odd[0], [*known, "target", "feature_mask"])
            raise InputError(f"{self.name} has no setting {odd[0]!r}{near}: it has {', '.join(known)}")
        return dataclasses.replace(self, **settings)

    def _maps(
        self, images: Tensor, feature_masks: Sequence[Any] | None, valid: Tensor | None = None
    ) -> list[Segments]:
        shown = [None] * len(images) if valid is None else [*valid]
        one: Any = feature_masks
        if has(one, "ndim") and one.ndim == images.ndim - 2:
            feature_masks = [one] * len(images)  # that all share
        feature_masks = None if feature_masks is None else kinds.sequence("feature_masks", feature_masks)
        if feature_masks is None or all(mask is None for mask in feature_masks):
            if self.needs_segments:
                raise InputError(
                    f"give a feature_mask {tuple(images.shape[2:])} of segment numbers for each of "
                    f"{len(images)} images, as lm.Grid(16)(image)"
                )
            pixels = torch.arange(images[0, 0].numel()).view(images.shape[2:])
            return [Segments(relabel(pixels, each), images.device) for each in shown]
        if len(feature_masks) != len(images) or any(mask is None for mask in feature_masks):
            raise InputError(
                f"{len(feature_masks)} feature_masks for {len(images)} images: give one for each"
            )
        given = zip(feature_masks, shown, strict=True)
        return [Segments(_labels(mask, images, valid), images.device) for mask, valid in given]

    def _columns(self, targets: Any, n_images: int) -> Columns:
        """Return what is asked of each image, and how it is read."""
        asked = kinds.per_image("targets", targets, n_images)
        columns = Columns([items("targets", each, self.removal) for each in asked])
        if columns.read and self.compares:
            raise InputError(
                f"{self.name} keeps the model's predicted class: targets are other than classes, use "
                "another explainer"
            )
        return columns

    def _whole(self, images: Float[Tensor, "N C *S"], more: Sequence[Any], ask: Forward) -> Tensor:
        """Return the (N, K) numbers for the whole pictures."""
        shown = torch.ones_like(images[:, :1], dtype=torch.bool)
        return torch.cat([*asking(ask, batches(images, shown, self.perturbations_per_eval, more))])

    def _likeliest(self, outputs: Tensor) -> list[int]:
        return outputs.topk(min(2, len(outputs))).indices.tolist()

    def _expect(self, whole: Tensor, classes: list[list[int]]) -> None:
        """Refuse targets that the method cannot explain; most explain any."""


def _labels(mask: Any, images: Tensor, valid: Tensor | None) -> Tensor:
    mask = kinds.label_map("feature_mask", mask)
    shape = tuple(images.shape[2:])
    if tuple(mask.shape) != shape and mask.squeeze().shape == shape:
        mask = mask.squeeze()  # captum's (1, 1, *S)
    if tuple(mask.shape) != shape:
        raise InputError(
            f"feature_mask is {tuple(mask.shape)} and the image {shape}: "
            "segment what the model sees, the preprocessed image"
        )
    labels = relabel(mask, valid).cpu()
    count = int(labels.max()) + 1
    if valid is None and not torch.equal(labels, mask.cpu()):
        low, high = int(mask.min()), int(mask.max())
        warn(f"feature_mask has {count} labels from {low} to {high}: relabelled 0 to {count - 1}, in order")
    if count < 2:
        raise InputError("feature_mask has one segment for the whole image: there is nothing to compare")
    return labels
