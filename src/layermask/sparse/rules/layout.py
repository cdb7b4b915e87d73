"""Sparse forms of what moves, cuts and joins values, and of their shapes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.masked import Masked
from layermask.rules.shape import pad as padding_rule
from layermask.sparse.graph import Cat, Slice
from layermask.sparse.operands import joined
from layermask.sparse.rules.table import decline_unless, rows_of, sparse_form
from layermask.sparse.value import ORDERS, Padded, SparseMasked


@sparse_form(torch.permute, Tensor.permute)
def permute(input: Any, *dims: Any) -> SparseMasked:
    node = rows_of(input, *ORDERS)
    given = dims[0] if len(dims) == 1 else dims
    decline_unless(all(-4 <= d < 4 for d in given))
    order = tuple(d % 4 for d in given)
    axes_now = tuple(ORDERS[input.order][d] for d in order)
    names = {axes: name for name, axes in ORDERS.items()}
    decline_unless(axes_now in names)
    return input.add_view(node, 0, node.channels, names[axes_now])


@sparse_form(torch.cat, torch.concat, torch.concatenate)
def cat(tensors: Sequence[Any], dim: int = 0) -> SparseMasked:
    decline_unless(dim in (1, -3), any(type(t) is SparseMasked for t in tensors))
    nodes = [rows_of(t) for t in tensors]
    decline_unless(len({(n.batch, n.mask.shape[2:], n.kind.dtype) for n in nodes}) == 1)
    mask = joined(nodes[0].forward_pass, [node.mask for node in nodes])
    return SparseMasked(Cat(mask, *nodes), strided_last=all(t.strided_last for t in tensors))


def _sliced(x: SparseMasked, begin: int, end: int) -> SparseMasked:
    node = rows_of(x)
    return x.add_view(Slice(node, begin, end), begin, end, "first")


@sparse_form(Tensor.__getitem__)
def getitem(input: Any, index: Any) -> SparseMasked:
    """A slice of channels, x[:, begin:end]."""
    node = rows_of(input)
    index = index if isinstance(index, tuple) else (index,)
    decline_unless(1 < len(index) <= 4)
    decline_unless(
        all(i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in (index[0], *index[2:]))
    )
    decline_unless(index[0] is not Ellipsis, isinstance(index[1], slice))
    begin, end, step = index[1].indices(node.channels)
    decline_unless(step == 1, begin < end)
    return _sliced(input, begin, end)


@sparse_form(torch.split, Tensor.split, torch.functional.split)
def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[SparseMasked, ...]:
    node = rows_of(tensor)
    decline_unless(dim in (1, -3))
    return tuple(_sliced(tensor, *bounds) for bounds in sections(split_size_or_sections, node.channels))


def sections(sizes: Any, whole: int) -> list[tuple[int, int]]:
    """Where the parts begin and end into which torch.split cuts `whole`."""
    if isinstance(sizes, int):
        decline_unless(sizes > 0)
        sizes = [min(sizes, whole - begin) for begin in range(0, whole, sizes)]
    decline_unless(sum(sizes) == whole, min(sizes) > 0)
    return list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))


@sparse_form(torch.chunk, Tensor.chunk)
def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[SparseMasked, ...]:
    node = rows_of(input)
    decline_unless(chunks > 0)
    return split(input, -(-node.channels // chunks), dim)


@sparse_form(F.pad, torch.constant_pad_nd)
def pad(input: Any, pad: Sequence[int], mode: Any = "constant", value: float | None = None) -> SparseMasked:
    if isinstance(mode, (int, float)):
        mode, value = "constant", mode
    node = rows_of(input)
    decline_unless(len(pad) == 4, mode == "constant", not value, min(pad) >= 0, any(pad))
    flat = node.mask.new_empty(1).expand(node.batch, 1, *node.mask.shape[2:])
    shell = Masked(flat, node.mask)
    shell.forward_pass = node.forward_pass
    left, right, top, bottom = pad
    return Padded(input, (left, right, top, bottom), padding_rule(shell, pad))


def _metadata(name: str) -> None:
    function = getattr(Tensor, name)

    @sparse_form(function)
    def answer(input: Any, *args: Any) -> Any:
        decline_unless(isinstance(input, SparseMasked), getattr(input, "node", None) is not None)
        return function(torch.empty(input.shape, dtype=input.dtype, device="meta"), *args)


for name in "size dim ndimension numel nelement is_floating_point is_complex".split():
    _metadata(name)


@sparse_form(Tensor.contiguous)
def contiguous(input: Any, memory_format: torch.memory_format = torch.contiguous_format) -> SparseMasked:
    """Itself, or a copy of what is a part of another value."""
    node, last = rows_of(input), memory_format is torch.channels_last
    decline_unless(last or memory_format is torch.contiguous_format, input.strided_last == last)
    if input.aliases is None or input.strides.is_contiguous(memory_format=memory_format):
        return input
    return SparseMasked(node, strided_last=last)
