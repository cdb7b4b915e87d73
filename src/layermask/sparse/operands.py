"""Operands that meet a sparse value entry by entry, as rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import intersection
from layermask.core.masked import Masked, is_plain
from layermask.errors import NoRows
from layermask.sparse.active import active_sites
from layermask.sparse.axes import as_rows
from layermask.sparse.graph import Node
from layermask.sparse.ops import to_compute_dtype
from layermask.sparse.sequences import Table
from layermask.sparse.tokens import SparseTokens, axes_of
from layermask.sparse.value import ORDERS, SparseMasked

AtSites = Callable[[Tensor], Any]  # a mask -> what an operand is for the rows at its sites


def meet(inputs: Sequence[SparseMasked], others: Sequence[Any]) -> tuple[Tensor, list[Node | AtSites]]:
    """The joined mask (N, 1, H, W), and each of `others` as a node of rows or as what broadcasts over them.

    Raises:
        NoRows: some operand does not fit.
    """
    first = inputs[0]
    if any(type(x) not in (SparseMasked, SparseTokens) or x.node is None for x in inputs):
        raise NoRows
    if any(not _alike(x, first) for x in inputs):
        raise NoRows
    sizes = {(x.node.batch, *x.node.mask.shape[2:], x.dtype) for x in inputs}  # type: ignore[union-attr]
    if len(sizes) != 1:
        raise NoRows
    forms, masks = [], [x.node.mask for x in inputs]  # type: ignore[union-attr]
    for other in others:
        form, mask = _form(other, first)
        forms.append(form)
        masks += [] if mask is None else [mask]
    return joined(first.node.forward_pass, masks), forms  # type: ignore[union-attr]


def _alike(a: SparseMasked, b: SparseMasked) -> bool:
    """Whether the axes of two values stand for the same."""
    if type(a) is type(b) is SparseMasked:
        return a.order == b.order
    return axes_of(a) == axes_of(b)


def joined(forward_pass: ForwardPass, masks: Sequence[Tensor]) -> Tensor:
    """The intersection; one of the masks themselves where it is the same, as their sites are known."""
    out = masks[0]
    for mask in masks[1:]:
        out = intersection(forward_pass, out, mask)
    if any(out is mask for mask in masks):
        return out
    full = [mask for mask in masks if mask.shape[2:] == out.shape[2:]]
    return next((mask for mask in full if torch.equal(mask.expand_as(out), out)), out)


def _form(other: Any, first: SparseMasked) -> tuple[Node | AtSites, Tensor | None]:
    if not isinstance(other, (Masked, Tensor)):
        return (lambda mask: other), None
    if isinstance(other, SparseMasked):  # of another order, or padded
        raise NoRows
    value = other.value if isinstance(other, Masked) else other
    if value.is_complex():
        raise NoRows
    if value.ndim == 0 and isinstance(other, Tensor):
        value = value.clone()  # as all that is put off: it may be written to before it is read
        return (lambda mask: value), None  # type: ignore[return-value]
    node = first.node
    assert node is not None
    if value.ndim > first.ndim or value.dtype != node.kind.dtype or value.device != node.kind.device:
        raise NoRows
    if torch.is_grad_enabled() and value.requires_grad:
        raise NoRows
    grid = _grid(value, first)
    if grid.shape[0] not in (1, node.batch) or grid.shape[1] not in (1, node.channels):
        raise NoRows
    mask = _mask_of(other, grid, first) if isinstance(other, Masked) else None
    if grid.shape[2:] == (1, 1):
        whole = _in_order(first) and grid.numel() == value.numel()
        return PerImage(node, grid.flatten(1).clone(), _parameter(other) if whole else None), mask
    if grid.shape[2:] != node.mask.shape[2:]:
        raise NoRows
    return Table(node, node.mask if mask is None else mask, grid.permute(0, 2, 3, 1)), mask


def _grid(value: Tensor, like: SparseMasked) -> Tensor:
    """(N or 1, C or 1, H or 1, W or 1) of what broadcasts over a value."""
    value = value.reshape((1,) * (like.ndim - value.ndim) + value.shape)
    if not isinstance(like, SparseTokens):
        return value.permute([ORDERS[like.order].index(axis) for axis in range(4)])
    if any(n not in (1, size) for n, size in zip(value.shape, like.shape, strict=True)):
        raise NoRows
    return as_rows(value, like.axes).permute(0, 3, 1, 2)


def _in_order(x: SparseMasked) -> bool:
    """Whether the value has its channels in the order of rows, whatever axes they are along."""
    if not isinstance(x, SparseTokens):
        return True
    steps = [digit.step for each in x.axes for digit in each if digit.kind == "c"]
    return steps == sorted(steps, reverse=True)


def _mask_of(other: Masked, grid: Tensor, like: SparseMasked) -> Tensor:
    """Its mask (N or 1, 1, H, W) or (N or 1, 1, 1, 1), as wide as its value."""
    if other.is_padding is not None or other.softmax_axis is not None:
        raise NoRows
    if not isinstance(like, SparseTokens) and other.visible.ndim != 4:
        raise NoRows
    mask = _grid(other.visible, like)
    if mask.shape[1] != 1 or mask.shape[2:] != grid.shape[2:]:
        raise NoRows
    return mask


def _parameter(x: Any) -> Tensor | None:
    """The parameter of which a tensor has every entry, in order."""
    if not is_plain(x):
        return None
    base = x if x._base is None else x._base
    if not isinstance(base, nn.Parameter) or base.dtype != x.dtype or base.numel() != x.numel():
        return None
    whole = base.data_ptr() == x.data_ptr() and base.is_neg() == x.is_neg()
    return base if whole and base.is_contiguous() and x.is_contiguous() else None


class PerImage:
    """Vectors (N or 1, C or 1): each row takes that of its image. `parameter`: what they are, of a model."""

    def __init__(self, node: Node, vectors: Tensor, parameter: Tensor | None) -> None:
        self.node, self.vectors, self.parameter = node, vectors, parameter

    def __call__(self, mask: Tensor) -> Tensor:
        vectors = to_compute_dtype(self.vectors)
        if len(vectors) == 1:
            return vectors
        return vectors.index_select(0, active_sites(self.node.forward_pass, mask, self.node.batch).images)
