"""Label maps: renumbering, sums over segments, and run lengths. -1 stands for pixels in no segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask._private_torch import is_readable
from layermask.arguments import kinds
from layermask.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Int64, Shaped

NOWHERE = -1
"""The label of a pixel that is in no segment: it is never visible."""


def relabel(labels: Any, valid: Bool[Tensor, "*S"] | None = None) -> Int64[Tensor, "*S"]:
    """Return a label map (*S) of any integers as int64 labels 0..n-1, in the same order.

    Explainers index features by label: a gap or an offset of one leaves a feature that hides nothing.
    Where `valid` (*S) bool is False, the label is -1, and what was there does not count.
    """
    labels = kinds.label_map("labels", labels)
    if valid is None:
        return torch.unique(labels, return_inverse=True)[1]
    valid = kinds.mask("valid", valid).to(labels.device)
    if valid.shape != labels.shape:
        raise InputError(f"valid is of shape {tuple(valid.shape)}: give {tuple(labels.shape)}, as labels are")
    found = torch.full_like(labels, NOWHERE)
    found[valid] = torch.unique(labels[valid], return_inverse=True)[1]
    return found


def spread(values: Shaped[Tensor, " K"], labels: Int[Tensor, "*S"], nowhere: Any) -> Shaped[Tensor, "*S"]:
    """Return each pixel's value (*S) of segment values (S,), and `nowhere` where it is in no segment."""
    labels = labels.to(values.device)
    inside = labels != NOWHERE
    found = values[labels.clamp(min=0)]
    return found if bool(inside.all()) else found.masked_fill(~inside, nowhere)


def sizes_of(labels: Int[Tensor, "*S"], count: int) -> Int[Tensor, " {count}"]:
    """Return how many pixels each of `count` segments has."""
    return (labels.flatten() + 1).bincount(minlength=count + 1)[1:]


def sum_over(
    labels: Int[Tensor, "*S"], values: Shaped[Tensor, " ..."], count: int | None = None
) -> Shaped[Tensor, "... K"]:
    """Return the sums (..., segments) of values (..., *S) over each segment of labels (*S).

    `count`: of the segments, where it is known.
    """
    flat, where = values.flatten(-labels.ndim), labels.flatten().to(values.device)
    nothing = flat.new_zeros(*flat.shape[:-1], int(labels.max()) + 1 if count is None else count)
    if is_readable(where) and bool((where == NOWHERE).any()):
        flat, where = flat[..., where != NOWHERE], where[where != NOWHERE]
    return nothing.index_add(-1, where, flat)


def of_segments(segments: Int[Tensor, "H W"]) -> dict[str, Any]:
    """Return a label map (H, W) as runs [label, length] in reading order, for `restore_segments`."""
    labels, lengths = torch.unique_consecutive(segments.flatten(), return_counts=True)
    runs = torch.stack([labels, lengths], 1).tolist()
    return {"shape": list(segments.shape), "count": int(segments.max()) + 1, "runs": runs}


def restore_segments(record: Mapping[str, Any]) -> Int64[Tensor, "H W"]:
    """Return the label map (H, W) int64 of a record that `of_segments` made."""
    labels, lengths = torch.tensor(record["runs"]).unbind(1)
    return labels.repeat_interleave(lengths).reshape(record["shape"])
