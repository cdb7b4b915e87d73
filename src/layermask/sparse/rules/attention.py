"""Sparse forms of attention: hidden queries are not computed, and hidden keys not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import cached
from layermask.core.masked import Masked, is_plain
from layermask.core.rule_table import RULES
from layermask.rules.contract import outer_mask
from layermask.sparse.axes import POSITIONS, Axes, axis, size_of, with_channels
from layermask.sparse.graph import Node, Slice
from layermask.sparse.rules.conv import channels_last_rows, projected
from layermask.sparse.rules.table import constant, decline_unless, rows_of, sparse_form
from layermask.sparse.scores import Scores, SparseScores
from layermask.sparse.sequences import Attention
from layermask.sparse.tokens import SparseTokens


@sparse_form(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> SparseTokens:
    decline_unless(not dropout_p, not is_causal, not enable_gqa)
    nodes = [rows_of(x, "tokens") for x in (query, key, value)]
    decline_unless(all(node.mask is nodes[0].mask for node in nodes))
    decline_unless(query.axes == key.axes, query.axes[:-1] == value.axes[:-1])
    node = nodes[2]
    heads = _heads(query.axes, nodes[0])
    decline_unless(heads == _heads(value.axes, node))
    *leading, along, _ = query.axes
    bias = None if attn_mask is None else _bias(attn_mask, tuple(query.axes), node)
    attention = Attention((nodes[0], nodes[1], node), heads, (tuple(leading), along), scale, bias)
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


def _bias(given: Any, axes: Axes, node: Node) -> Tensor:
    """What is added to (N, heads, L, L) scores, as (N or 1, heads or 1, L, L): it may be written to later."""
    constant(node.kind, given)
    length = size_of(axes[-2])
    decline_unless(2 <= given.ndim <= 4, len(axes) == 4, given.shape[-2:] == (length, length))
    decline_unless(all(digit.kind != "c" for digit in axes[0]), all(digit.kind == "c" for digit in axes[1]))
    bias = given.detach().reshape((1,) * (4 - given.ndim) + given.shape)
    decline_unless(bias.shape[0] in (1, size_of(axes[0])), bias.shape[1] in (1, size_of(axes[1])))
    return bias.clone()


@sparse_form(F.multi_head_attention_forward)
def multi_head_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[SparseTokens, None]:
    """A value's attention to itself, (L, N, E)."""
    extra = (bias_k, bias_v, key_padding_mask, attn_mask, static_k, static_v)
    decline_unless(query is key, key is value, all(x is None for x in extra), in_proj_weight is not None)
    decline_unless(not (add_zero_attn or need_weights or use_separate_proj_weight or is_causal))
    decline_unless(not (training and dropout_p))
    node = channels_last_rows(query)
    decline_unless(query.ndim == 3, embed_dim_to_check == node.channels, node.channels % num_heads == 0)
    axes = query.axes
    along, images, _ = axes
    three = projected(node, in_proj_weight, in_proj_bias)  # type: ignore[arg-type]  # not None
    width = node.channels
    decline_unless(three.channels == 3 * width, all(digit.kind == "n" for digit in images))
    query, key, value = (Slice(three, begin, begin + width) for begin in (0, width, 2 * width))
    attention = Attention((query, key, value), num_heads, ((images,), along), None)
    out = projected(attention, out_proj_weight, out_proj_bias)
    return SparseTokens(out, with_channels(axes, out.channels)), None


# --- written as two products and a softmax -------------------------------------------------------------


@sparse_form(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
def matmul(input: Any, other: Any) -> Masked:
    if isinstance(input, SparseScores):
        return _weighted(input, other)
    query, key = rows_of(input, "tokens"), rows_of(other, "tokens")
    decline_unless(len(input.axes) >= 3, input.axes == (*other.axes[:-2], other.axes[-1], other.axes[-2]))
    decline_unless(query.mask is key.mask, query.kind.dtype is key.kind.dtype)
    _heads(input.axes, query)
    make = _dense(torch.matmul, input.copied(), other.copied())
    seen = (input.visible, other.visible)
    forward_pass = query.forward_pass
    visible = cached(forward_pass, "matmul", seen, None, lambda: outer_mask(forward_pass, *seen))
    return SparseScores(forward_pass, Scores(query, key, input.axes), make, visible)


def _dense(function: Callable, *given: Callable[[], Masked], **options: Any) -> Callable[[], Masked]:
    rule = RULES[function]
    return lambda: rule(*[make() for make in given], **options)


def _weighted(weights: SparseScores, value: Any) -> SparseTokens:
    scores = _put_off(weights)
    node = rows_of(value, "tokens")
    decline_unless(scores.normalised, value.axes[:-1] == scores.axes[:-1])
    decline_unless(node.mask is scores.key.mask, node.kind.dtype is scores.key.kind.dtype)
    heads = _heads(value.axes, node)
    decline_unless(heads == _heads(scores.axes, scores.query))
    *leading, along, _ = scores.axes
    three = (scores.query, scores.key, node)
    attention = Attention(three, heads, (tuple(leading), along), scores.scale, scores.bias)
    return SparseTokens(attention, value.axes)


def _put_off(x: Any) -> Scores:
    decline_unless(isinstance(x, SparseScores), getattr(x, "scores", None) is not None)
    return x.scores


def _scaled(function: Callable, divides: bool) -> None:
    @sparse_form(function)
    def scaled(input: Any, other: Any) -> SparseScores:
        scores = _put_off(input)
        decline_unless(type(other) in (int, float), other != 0, scores.bias is None, not scores.normalised)
        scale = scores.scale / other if divides else scores.scale * other
        return input.then(lambda x: RULES[function](x, other), {"scale": scale})


for function in (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__):
    _scaled(function, False)
for function in (torch.div, Tensor.div, Tensor.__truediv__):
    _scaled(function, True)


@sparse_form(torch.add, Tensor.add, Tensor.__add__)
def add(input: Any, other: Any) -> SparseScores:
    scores = _put_off(input)
    decline_unless(is_plain(other), scores.bias is None, not scores.normalised)
    bias = _bias(other, scores.axes, scores.key)
    return input.then(lambda x: RULES[torch.add](x, bias), {"bias": bias})


def _softmax(function: Callable) -> None:
    @sparse_form(function)
    def softmax(input: Any, dim: Any = None, *, _stacklevel: int = 3, dtype: Any = None) -> SparseScores:
        scores = _put_off(input)
        decline_unless(not scores.normalised, dim in (-1, len(scores.axes) - 1))
        decline_unless(dtype is None or dtype is scores.key.kind.dtype)
        return input.then(lambda x: RULES[function](x, dim), {"normalised": True})


for function in (F.softmax, torch.softmax, Tensor.softmax):
    _softmax(function)


@sparse_form(F.dropout, torch.dropout)
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> SparseScores:
    _put_off(input)
    decline_unless(not training, 0 <= p <= 1)
    return input


def _strides(axes: Axes) -> Tensor:
    """As torch lays the answer out on a CPU: with the heads behind the tokens."""
    shape = [size_of(each) for each in axes]
    shape[-3], shape[-2] = shape[-2], shape[-3]
    return torch.empty(shape, device="meta").transpose(-3, -2)
