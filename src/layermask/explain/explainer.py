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
from layermask.arguments.refusal import warn
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.query_plan import QueryPlan, Segments, run
from layermask.removal.gaps import Valid, never_visible, valid_pixels
from layermask.removal.query import Output, Progress, answers, batches, progress, query
from layermask.segment.labels import relabel

if TYPE_CHECKING:
    from jaxtyping import Float

Target = int | Sequence[int] | None


@dataclass(frozen=True)
class Explainer(Checked, ABC):
    """Scores the segments of pictures by the outputs of `removal(images, visible) -> logits` without them.

    `perturbations_per_eval`: masks in one forward pass; memory follows it, and results do not depend on it,
    up to the rounding of the model's kernels. Masks that show about as much share a pass.
    `output`: what of the model is explained.
    """

    removal: Annotated[Callable[..., Any], kinds.removal]
    _: dataclasses.KW_ONLY
    perturbations_per_eval: Count = 32
    output: Output = "probability"

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

    @checked(image=kinds.image, target=kinds.target, valid=kinds.valid)
    def attribute(
        self,
        image: Float[Tensor, "1 C *S"],
        target: Target = None,
        feature_mask: Any = None,
        show_progress: Progress = False,
        *,
        valid: Valid = None,
        **settings: Any,
    ) -> Attribution:
        """Explain one image (1, C, *S) over its segments, `feature_mask` (*S) integers.

        `target`: class or classes; by default the two that the model finds most likely. `show_progress`: True
        for a bar, or a function to call with the number of masks just done. `valid`: the pixels that may be
        visible, bool (*S) or (1, 1, *S), or "nan" for those that hold no NaN; the others are never shown, and
        in no segment. `settings` replace those of the explainer for this call, as n_samples=500.

        Raises:
            InputError: what is given does not fit the image or the model; the message says how.
        """
        maps = None if feature_mask is None else [kinds.label_map("feature_mask", feature_mask)]
        return self.attribute_batch(image, [target], maps, show_progress, valid=valid, **settings)[0]

    @checked(images=kinds.images, show_progress=kinds.progress, valid=kinds.valid)
    def attribute_batch(
        self,
        images: Float[Tensor, "N C *S"],
        targets: Target | Sequence[Target] = None,
        feature_masks: Sequence[Any] | None = None,
        show_progress: Progress = False,
        *,
        valid: Valid = None,
        **settings: Any,
    ) -> list[Attribution]:
        """Explain images (N, C, *S), each over its own segments; a forward pass may span several images.

        `targets`: one for each image, as in `attribute`; a single class is that of all images. `valid`: bool
        (*S) or (N or 1, 1, *S), or "nan".
        """
        if settings:
            return self._with(settings).attribute_batch(
                images, targets, feature_masks, show_progress, valid=valid
            )
        if valid is None:
            return self._explained(images, targets, self._maps(images, feature_masks), show_progress)
        shown = valid_pixels(images, valid)
        removal, images = never_visible(self.removal, images, shown)
        maps = self._maps(images, feature_masks, shown.expand(len(images), *shown.shape[1:])[:, 0])
        return dataclasses.replace(self, removal=removal)._explained(images, targets, maps, show_progress)

    def _explained(
        self, images: Tensor, targets: Any, maps: list[Segments], show_progress: Progress
    ) -> list[Attribution]:
        asked = kinds.targets("targets", targets, len(images))
        whole = self._whole(images)
        classes = self._targets(whole, asked)
        predictions = [row[picked].double().cpu() for row, picked in zip(whole, classes, strict=True)]
        self._expect(whole, classes)
        plans = [self.plan(*each) for each in zip(maps, predictions, classes, strict=True)]
        with progress(show_progress, self.name, sum(map(self.cost, maps))) as advance:
            ask = query(self.removal, self.output, self.compares)
            found = run(plans, images, classes, ask, self.perturbations_per_eval, advance)
        return [
            Attribution(
                segments=each.labels,
                targets=tuple(picked),
                prediction=prediction,
                method=self.name,
                settings=self.settings(),
                **fields,
            )
            for each, picked, prediction, fields in zip(maps, classes, predictions, found, strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """Return the settings that the scores depend on, besides the model and the picture."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "removal"}

    def _with(self, settings: dict[str, Any]) -> Explainer:
        known = [f.name for f in dataclasses.fields(self) if f.name != "removal"]
        if odd := [key for key in settings if key not in known]:
            raise InputError(f"{self.name} has no setting {odd[0]!r}: it has {', '.join(known)}")
        return dataclasses.replace(self, **settings)

    def _maps(
        self, images: Tensor, feature_masks: Sequence[Any] | None, valid: Tensor | None = None
    ) -> list[Segments]:
        shown = [None] * len(images) if valid is None else [*valid]
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

    def _whole(self, images: Float[Tensor, "N C *S"]) -> Float[Tensor, "N K"]:
        """Return the (N, classes) outputs for the whole pictures."""
        shown = torch.ones_like(images[:, :1], dtype=torch.bool)
        asked = batches(images, shown, self.perturbations_per_eval)
        return torch.cat([*answers(self.removal, asked, self.output, self.compares)])

    def _targets(self, whole: Tensor, asked: list[Target]) -> list[list[int]]:
        return [self._target(outputs, each) for outputs, each in zip(whole, asked, strict=True)]

    def _target(self, outputs: Tensor, asked: Target) -> list[int]:
        found = kinds.target("target", asked, len(outputs))
        return self._likeliest(outputs) if found is None else found

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
