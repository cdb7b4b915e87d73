"""Mask-shape bias (paper, section 4.2): does the shape of a hole tell the model what was in it?

The object is hidden, and for comparison a hole of its shape elsewhere. Only images count that the model gets
right when they are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.metrics.bootstrap import Estimate, mean_interval
from layermask.metrics.measure import classes_of
from layermask.removal.query import ProgressCallback, progress

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped


def broken_mask(masks: Shaped[Tensor, "N 1 *S"]) -> Bool[Tensor, "N 1 *S"]:
    """Return masks (N, 1, *S) with their quadrants moved to the opposite corners: rolled by half their size.

    The hole keeps its area and its pieces their shapes; rolling twice an even size gives the mask back.
    """
    masks = kinds.mask("masks", masks)
    if masks.ndim < 3 or masks.shape[1] != 1 or not masks.numel():
        raise InputError(f"masks are (N, 1, *S), not empty, got {tuple(masks.shape)}: give one per image")
    sizes = masks.shape[2:]
    return masks.roll([size // 2 for size in sizes], list(range(2, masks.ndim)))


@dataclass(frozen=True)
class ShapeBias:
    """Per image that the whole-image model gets right (M of them): is it still right without the object
    (`hidden`, bool (M,)), and without the same area elsewhere (`broken`, bool (M,))? `labels` (M,); `total`
    images were there.

    Little left of the object and much elsewhere is what removal should give: low `hidden`, high `broken`.
    """

    hidden: Bool[Tensor, " M"]
    broken: Bool[Tensor, " M"]
    labels: Int[Tensor, " M"]
    total: int

    def accuracy(self) -> tuple[float, float, float]:
        """Return the accuracies with the object hidden and the broken mask, and the second less the first."""
        hidden, broken, difference = self.values().mean(0).tolist()
        return hidden, broken, difference

    @property
    def difference(self) -> Float[Tensor, " M"]:
        """Return `broken` less `hidden`, (M,) of −1, 0 and 1."""
        return self.broken.double() - self.hidden.double()

    def interval(self, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> Estimate:
        """Return the three numbers of `accuracy` with their bootstrap bounds, each (3,)."""
        return mean_interval(self.values(), level=level, n_resamples=n_resamples, seed=seed)

    def by_class(self, classes: int) -> tuple[Tensor, Tensor]:
        """Return the numbers of `accuracy` per class, (classes, 3), NaN without images, and their counts."""
        classes = kinds.count("classes", classes)
        kinds.classes("labels", self.labels, classes)
        counts = self.labels.bincount(minlength=classes)
        sums = torch.zeros(classes, 3, dtype=torch.float64).index_add_(0, self.labels, self.values())
        return sums / counts[:, None], counts

    def values(self) -> Tensor:
        """Return what the three numbers of `accuracy` are means of, (M, 3) float64."""
        return torch.stack([self.hidden.double(), self.broken.double(), self.difference], 1)


def shape_bias(labels: Tensor, whole: Tensor, hidden: Tensor, broken: Tensor) -> ShapeBias:
    """Compare classes (N,) predicted from whole images, without the object, and with the broken mask.

    Raises:
        InputError: the four do not go together, or the model gets no whole image right.
    """
    for name, classes in (("labels", labels), ("whole", whole), ("hidden", hidden), ("broken", broken)):
        kinds.classes(name, classes)
        if classes.shape != labels.shape or classes.ndim != 1:
            raise InputError(
                f"{name} of shape {tuple(classes.shape)} for labels {tuple(labels.shape)}: give one per image"
            )
    found = of_right(labels, whole, hidden, broken)
    if not len(found.labels):
        raise InputError(
            f"the model gets none of {len(labels)} whole images right, and shape bias is measured on "
            "those: check that labels are this model's classes"
        )
    return found


def of_right(labels: Tensor, whole: Tensor, hidden: Tensor, broken: Tensor) -> ShapeBias:
    """Compare the images that are right when whole, of which there may be none; see `shape_bias`."""
    right = whole == labels
    return ShapeBias((hidden == labels)[right], (broken == labels)[right], labels[right], len(labels))


@checked(
    removal=kinds.removal,
    images=kinds.images,
    objects=kinds.tensor,
    labels=kinds.optional(kinds.classes),
    batch_size=kinds.count,
    show_progress=kinds.progress,
)
def measure_shape_bias(
    removal: Callable[..., Any],
    images: Float[Tensor, "N C *S"],
    objects: Bool[Tensor, "N 1 *S"],
    labels: Int[Tensor, " N"] | None = None,
    *,
    batch_size: int = 32,
    show_progress: ProgressCallback = False,
) -> ShapeBias:
    """Ask about images (N, C, *S) whole, without their objects (N, 1, *S) bool, and with the broken masks.

    Without `labels` (N,) the model's own classes for the whole images stand in: agreement, not accuracy.
    """
    if objects.dtype is not torch.bool or objects.shape != (len(images), 1, *images.shape[2:]):
        raise InputError(
            f"objects are {objects.dtype} {tuple(objects.shape)} for images {tuple(images.shape)}: give bool "
            f"({len(images)}, 1, *S), True = object, resized by nearest neighbour"
        )
    objects = objects.to(images.device)
    masks = (torch.ones_like(objects), ~objects, ~broken_mask(objects))
    with progress(show_progress, "shape bias", 3 * len(images)) as advance:
        whole, hidden, broken = (classes_of(removal, images, mask, batch_size, advance) for mask in masks)
    return shape_bias(whole if labels is None else labels.cpu(), whole, hidden, broken)
