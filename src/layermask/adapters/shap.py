"""shap.Explainer over any removal: segments are shap's features, and hiding them is the removal's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.adapters.arguments import Removal, device_of
from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.arguments.tensors import has_items
from layermask.errors import InputError, import_optional
from layermask.removal.gaps import Valid, never_visible
from layermask.removal.query import Output, answers, output_kind
from layermask.segment.labels import sum_over

if TYPE_CHECKING:
    import numpy as np


@checked(
    removal=kinds.removal,
    feature_mask=kinds.label_map,
    partition=kinds.flag,
    output=output_kind,
    batch_size=kinds.count,
    valid=kinds.valid,
)
def as_shap(
    removal: Removal,
    feature_mask: Any,
    *,
    target: int | Sequence[int] | None = None,
    partition: bool = False,
    output: Output = "logit",
    batch_size: int = 32,
    valid: Valid = None,
) -> tuple[SegmentModel, SegmentMasker]:
    """Return (model, masker) for `shap.Explainer(model, masker, algorithm=...)(images)`.

    `.values` of the explanation are (N, n_segments, T), or (N, n_segments) for one `target`, and add up to
    the answer to the whole image less that to nothing. Images are (N, C, *S), arrays or tensors, all over
    the segments of `feature_mask` *S.

    Args:
        partition: give the masker a hierarchy of segments. algorithm="partition" needs it; the algorithms
            "exact" and "permutation" then find Owen values of that hierarchy in place of Shapley values.
        target: class or classes to explain; by default all.
        batch_size: masks per forward pass, unless the explainer is called with another.
        valid: the pixels of all images that may be visible, bool *S, or "nan" for those without NaN.

    Raises:
        InputError: a feature_mask that is not integers; when called, images that do not fit it.
        MissingPackage: scipy, for partition=True.
    """
    labels = torch.unique(feature_mask.cpu(), return_inverse=True)[1]
    masker = SegmentMasker(labels, segment_tree(labels) if partition else None, batch_size)
    classes = kinds.target("target", target)
    return SegmentModel(removal, labels, classes, not has_items(target), output, valid), masker


class SegmentMasker:
    """What shap asks of a masker. It hides nothing itself: rows of segments and images go to the model."""

    immutable_outputs = True  # shap need not copy them

    def __init__(self, labels: Tensor, clustering: np.ndarray | None, batch_size: int) -> None:
        self.labels, self.clustering, self.default_batch_size = labels, clustering, batch_size
        self.n_segments = int(labels.max()) + 1
        self.image_data = clustering is not None  # algorithm="auto" then takes the partition explainer

    def __call__(self, mask: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of segments shown (1, n_segments) and the image (1, C, *S)."""
        self._check(x)
        shown = torch.as_tensor(mask).bool().expand(self.n_segments)
        return shown[None].numpy(), torch.as_tensor(x)[None].cpu().numpy()

    def shape(self, x: Any) -> tuple[int, int]:
        self._check(x)
        return 1, self.n_segments

    def mask_shapes(self, x: Any) -> list[tuple[int, ...]]:
        return [(self.n_segments,)]

    def _check(self, x: Any) -> None:
        if tuple(x.shape[1:]) != tuple(self.labels.shape):
            sizes = ", ".join(map(str, self.labels.shape))
            raise InputError(
                f"one row of what shap explains is of shape {tuple(x.shape)}, expected (C, {sizes}) as the "
                f"feature_mask: give the explainer a batch of images (N, C, {sizes})"
            )


class SegmentModel:
    """What shap calls with the rows and images of `SegmentMasker`."""

    def __init__(
        self,
        removal: Removal,
        labels: Tensor,
        target: list[int] | None,
        single: bool,
        output: Output,
        valid: Valid = None,
    ) -> None:
        self.removal, self.target, self.single = removal, target, single
        self.valid: Valid = valid
        self.output: Output = output
        self.device = device_of(removal)
        self.labels = labels.to(self.device)

    def __call__(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the float64 scores (B, T), or (B,) for one target, of rows (B, n_segments) of images."""
        visible = torch.as_tensor(rows).to(self.device)[:, self.labels][:, None]
        shown = torch.as_tensor(images).to(self.device)
        removal, shown = never_visible(self.removal, shown, self.valid)
        (scores,) = answers(removal, [(shown, visible)], self.output)
        return self._picked(scores).double().cpu().numpy()  # shap averages in the dtype that it is given

    def _picked(self, scores: Tensor) -> Tensor:
        if (wanted := kinds.target("target", self.target, scores.shape[1])) is None:
            return scores
        return scores[:, wanted[0] if self.single else wanted]


def segment_tree(labels: Tensor) -> np.ndarray:
    """Return the hierarchy of segments (n_segments - 1, 4) in the format of scipy's linkage.

    Average linkage of the way from centroid to centroid through segments that touch, so that what is
    merged first is near and connected.
    """
    hierarchy, graph = (
        import_optional("scipy.cluster.hierarchy", "shap"),
        import_optional("scipy.sparse.csgraph", "shap"),
    )
    distance = import_optional("scipy.spatial.distance", "shap")
    count = int(labels.max()) + 1
    if count < 2:
        raise InputError("a hierarchy needs two segments or more, and the feature_mask has 1")
    touching = _touching(labels, count)
    centroids = _centroids(labels, count)
    steps = torch.cdist(centroids, centroids).where(touching, torch.inf)
    # Concentric segments share a centroid, and csgraph takes a distance of 0 for no edge.
    ways = graph.shortest_path(steps.clamp(min=1e-6).fill_diagonal_(0).numpy(), directed=False)
    return hierarchy.linkage(distance.squareform(ways, checks=False), "average")


def _touching(labels: Tensor, count: int) -> Tensor:
    """Return the symmetric (count, count) bool matrix of segments that share an edge."""
    touching = torch.eye(count, dtype=torch.bool)
    for dim in range(labels.ndim):
        size = labels.shape[dim]
        one, other = labels.narrow(dim, 0, size - 1).flatten(), labels.narrow(dim, 1, size - 1).flatten()
        touching[one, other] = True
        touching[other, one] = True
    return touching


def _centroids(labels: Tensor, count: int) -> Tensor:
    """Return the (count, dims) float64 mean position of each segment."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij")).double()
    return (sum_over(labels, places, count) / torch.bincount(labels.flatten(), minlength=count)).T
