"""Sparse forms of what makes tokens of a map, turns, cuts and joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layermask._private_torch import same_storage
from layermask.core.mask import cached
from layermask.core.masked import is_plain
from layermask.sparse.axes import Axes, Axis, Digit, axis, reshaped, size_of
from layermask.sparse.graph import Node, Slice
from layermask.sparse.rules.layout import sections
from layermask.sparse.rules.table import decline_unless, rows_of, sparse_form
from layermask.sparse.sequences import EndToEnd, Part
from layermask.sparse.tokens import SparseTokens, add_view, axes_of
from layermask.sparse.value import SparseMasked


def _of_tokens(x: Any) -> tuple[Node, Axes]:
    """The node and the axes of a value of rows."""
    return rows_of(x, None), axes_of(x)


def _reshapes(function: Callable) -> None:
    @sparse_form(function)
    def reshape(input: Any, *args: Any, **kwargs: Any) -> SparseMasked:
        """A view where torch makes one, else a new value of the same rows."""
        node, axes = _of_tokens(input)
        decline_unless(not any(isinstance(a, (torch.dtype, Tensor)) for a in (*args, *kwargs.values())))
        strides = function(input.strides, *args, **kwargs)
        axes = reshaped(axes, tuple(strides.shape))
        # groups of a map's channels are shuffled, and the next convolution needs the map
        decline_unless(isinstance(input, SparseTokens) or axis(("c", node.channels)) in axes)
        if same_storage(strides, input.strides):
            return add_view(input, node, axes, strides)
        return SparseTokens(node, axes)


for name in "view reshape flatten unflatten".split():
    for function in {getattr(space, name) for space in (torch, Tensor) if hasattr(space, name)}:
        _reshapes(function)


def _turns(function: Callable) -> None:
    @sparse_form(function)
    def turn(input: Any, *args: Any, **kwargs: Any) -> SparseTokens:
        node, axes = _of_tokens(input)
        order = function(torch.empty(*range(len(axes)), device="meta"), *args, **kwargs).shape
        return add_view(input, node, tuple(axes[i] for i in order), function(input.strides, *args, **kwargs))


for name in "permute transpose swapaxes swapdims movedim moveaxis".split():
    for function in {getattr(space, name) for space in (torch, Tensor)}:
        _turns(function)


def _channels(x: SparseMasked, node: Node, dim: int, begin: int, count: int, kept: bool) -> SparseTokens:
    """Some steps of the first digit of the channels, which stands alone along an axis."""
    axes = axes_of(x)
    step = _step(axes[dim], node)
    left: Axis = (Digit("c", count, step),) if count > 1 and step > 1 else axis(("c", count))
    axes = (*axes[:dim], *([left] if kept else []), *axes[dim + 1 :])
    strides = x.strides.narrow(dim, begin, count) if kept else x.strides.select(dim, begin)
    return add_view(x, Slice(node, begin * step, (begin + count) * step), axes, strides)


def _step(one: Axis, node: Node) -> int:
    """How many channels a step of an axis is, if that is the outermost one of all."""
    decline_unless(len(one) == 1)
    decline_unless(one[0].kind == "c", one[0].size * one[0].step == node.channels)
    return one[0].step


@sparse_form(torch.unbind, Tensor.unbind)
def unbind(input: Any, dim: int = 0) -> tuple[SparseTokens, ...]:
    node, axes = _of_tokens(input)
    dim = _axis(dim, axes)
    return tuple(_channels(input, node, dim, i, 1, False) for i in range(size_of(axes[dim])))


def _axis(dim: Any, axes: Axes) -> int:
    decline_unless(type(dim) is int, -len(axes) <= dim < len(axes))
    return dim % len(axes)


@sparse_form(torch.select, Tensor.select)
def select(input: Any, dim: int, index: int) -> SparseTokens:
    node, axes = _of_tokens(input)
    dim = _axis(dim, axes)
    size = size_of(axes[dim])
    decline_unless(type(index) is int, -size <= index < size)
    return _channels(input, node, dim, index % size, 1, False)


@sparse_form(torch.split, Tensor.split, torch.functional.split)
def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[SparseTokens, ...]:
    node, axes = _of_tokens(tensor)
    dim = _axis(dim, axes)
    bounds = sections(split_size_or_sections, size_of(axes[dim]))
    return tuple(_channels(tensor, node, dim, begin, end - begin, True) for begin, end in bounds)


@sparse_form(torch.chunk, Tensor.chunk)
def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[SparseTokens, ...]:
    _, axes = _of_tokens(input)
    decline_unless(chunks > 0)
    return split(input, -(-size_of(axes[_axis(dim, axes)]) // chunks), dim)


@sparse_form(Tensor.__getitem__)
def getitem(input: Any, index: Any) -> SparseTokens:
    """One step of the channels, or a slice of the tokens, along one axis."""
    node, axes = _of_tokens(input)
    parts = list(index) if isinstance(index, tuple) else [index]
    decline_unless(all(type(part) in (int, slice, type(Ellipsis)) for part in parts))
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(axes) - len(parts) + 1)
    chosen = [(dim, part) for dim, part in enumerate(parts) if part != slice(None)]
    decline_unless(len(chosen) == 1, len(parts) <= len(axes))
    dim, part = chosen[0]
    if isinstance(part, slice):
        return _tokens_between(input, node, dim, part)
    return select(input, dim, part)


def _tokens_between(x: SparseMasked, node: Node, dim: int, part: slice) -> SparseTokens:
    axes = axes_of(x)
    begin, end, step = part.indices(size_of(axes[dim]))
    decline_unless(step == 1, end - begin > 1, axes[dim] == _sequence(node))
    mask = cached(
        node.forward_pass, "between", (node.mask,), (begin, end), lambda: _flat(node.mask)[..., begin:end]
    )
    cut = (*axes[:dim], axis(("w", end - begin)), *axes[dim + 1 :])
    return add_view(x, Part(node, mask, begin), cut, x.strides.narrow(dim, begin, end - begin))


def _sequence(node: Node) -> Axis:
    """The axis of all positions of a map in order."""
    height, width = node.mask.shape[2:]
    return axis(("h", height), ("w", width))


def _flat(mask: Tensor) -> Tensor:
    return mask.reshape(len(mask), 1, 1, -1)


@sparse_form(torch.cat, torch.concat, torch.concatenate)
def cat(tensors: Sequence[Any], dim: int = 0) -> SparseTokens:
    """Tokens behind tokens of (N, L, C), of which some are plain."""
    tensors = tuple(tensors)
    first = next((t for t in tensors if isinstance(t, SparseTokens)), None)
    node, _ = _of_tokens(first)
    decline_unless(all(isinstance(t, Tensor) and t.ndim == 3 for t in tensors), dim in (1, -2))
    parts = [_part(t, node) for t in tensors]
    masks = [part.mask for part in parts if isinstance(part, Node)]
    lengths = tuple([0 if isinstance(part, Node) else part.shape[1] for part in parts])
    mask = cached(node.forward_pass, "end to end", tuple(masks), lengths, lambda: _joined(parts))
    axes = (axis(("n", node.batch)), axis(("w", mask.shape[3])), axis(("c", node.channels)))
    return SparseTokens(EndToEnd(mask, node, parts), axes)


def _part(x: Any, like: Node) -> Node | Tensor:
    if isinstance(x, SparseMasked):
        node, axes = _of_tokens(x)
        wanted = (axis(("n", node.batch)), _sequence(node), axis(("c", node.channels)))
        decline_unless(axes == wanted, (node.batch, node.channels) == (like.batch, like.channels))
        decline_unless(node.kind.dtype is like.kind.dtype, node.mask.shape[2] * node.mask.shape[3] > 1)
        return node
    decline_unless(is_plain(x), type(x) in (Tensor, nn.Parameter))
    decline_unless(x.dtype is like.kind.dtype, x.device == like.kind.device, x.layout is torch.strided)
    decline_unless(x.shape[0] == like.batch, x.shape[2] == like.channels, x.shape[1] > 0)
    decline_unless(not (torch.is_grad_enabled() and x.requires_grad))
    return x[:1] if x.stride(0) == 0 else x


def _joined(parts: Sequence[Node | Tensor]) -> Tensor:
    """The masks of tokens that lie behind each other, (N or 1, 1, 1, L)."""
    count = max(len(part.mask) for part in parts if isinstance(part, Node))
    masks = []
    for part in parts:
        if isinstance(part, Node):
            mask = _flat(part.mask)
        else:
            mask = torch.ones(1, 1, 1, part.shape[1], dtype=torch.bool, device=part.device)
        masks.append(mask.expand(count, -1, -1, -1))
    return torch.cat(masks, 3)


@sparse_form(Tensor.contiguous)
def contiguous(input: Any, memory_format: torch.memory_format = torch.contiguous_format) -> SparseTokens:
    node, axes = _of_tokens(input)
    decline_unless(isinstance(input, SparseTokens), memory_format is torch.contiguous_format)
    return input if input.strides.is_contiguous() else SparseTokens(node, axes)
