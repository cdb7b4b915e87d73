"""Sparse forms of attention: hidden queries are not computed, and hidden keys not read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from layermask.sparse.axes import POSITIONS, Axes, axis, size_of
from layermask.sparse.graph import Node
from layermask.sparse.rules.table import decline_unless, rows_of, sparse_form
from layermask.sparse.sequences import Attention
from layermask.sparse.tokens import SparseTokens


@sparse_form(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> SparseTokens:
    decline_unless(attn_mask is None, not dropout_p, not is_causal, not enable_gqa)
    nodes = [rows_of(x, "tokens") for x in (query, key, value)]
    masks = {id(node.mask) for node in nodes}
    decline_unless(len(masks) == 1, query.axes == key.axes, query.axes[:-1] == value.axes[:-1])
    node = nodes[2]
    heads = _heads(query.axes, nodes[0])
    decline_unless(heads == _heads(value.axes, node))
    *leading, along, _ = query.axes
    attention = Attention(*nodes, heads, (tuple(leading), along), scale)
    return SparseTokens(attention, value.axes, _strides(value.axes))


def _heads(axes: Axes, node: Node) -> int:
    """How many heads there are, whose channels follow each other along the last axis."""
    decline_unless(len(axes) >= 3)
    *leading, along, last = axes
    found = [digit for each in leading for digit in each if digit.kind == "c"]
    decline_unless(len(found) < 2, along != (), all(digit.kind in POSITIONS for digit in along))
    heads = found[0].size if found else 1
    width = size_of(last)
    decline_unless(last == axis(("c", width)), heads * width == node.channels)
    decline_unless(not found or found[0].step == width)
    return heads


def _strides(axes: Axes) -> torch.Tensor:
    """As torch lays the answer out on a CPU: with the heads behind the tokens."""
    shape = [size_of(each) for each in axes]
    shape[-3], shape[-2] = shape[-2], shape[-3]
    return torch.empty(shape, device="meta").transpose(-3, -2)
