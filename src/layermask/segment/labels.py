"""Label maps: renumbering, sums over segments, and run lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from layermask.arguments import kinds


def relabel(labels: Any) -> Tensor:
    """Return a label map (*S) of any integers as int64 labels 0..n-1, in the same order.

    Explainers index features by label: a gap or an offset of one leaves a feature that hides nothing.
    """
    return torch.unique(kinds.label_map("labels", labels), return_inverse=True)[1]


def sum_over(labels: Tensor, values: Tensor, count: int | None = None) -> Tensor:
    """Return the sums (..., segments) of values (..., *S) over each segment of labels (*S).

    `count`: of the segments, where it is known.
    """
    flat = values.flatten(-labels.ndim)
    nothing = flat.new_zeros(*flat.shape[:-1], int(labels.max()) + 1 if count is None else count)
    return nothing.index_add(-1, labels.flatten().to(values.device), flat)


def of_segments(segments: Tensor) -> dict[str, Any]:
    """Return a label map (H, W) as runs [label, length] in reading order, for `restore_segments`."""
    labels, lengths = torch.unique_consecutive(segments.flatten(), return_counts=True)
    runs = torch.stack([labels, lengths], 1).tolist()
    return {"shape": list(segments.shape), "count": int(segments.max()) + 1, "runs": runs}


def restore_segments(record: Mapping[str, Any]) -> Tensor:
    """Return the label map (H, W) int64 of a record that `of_segments` made."""
    labels, lengths = torch.tensor(record["runs"]).unbind(1)
    return labels.repeat_interleave(lengths).reshape(record["shape"])
