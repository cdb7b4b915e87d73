"""Sparse forms of convolutions, linear layers and norms."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.masked import Masked
from layermask.core.window import Window, grow
from layermask.padding.rings import NEVER
from layermask.rules.convolve import conv_window, filled
from layermask.sparse.axes import channels_last, with_channels
from layermask.sparse.fuse import Affine
from layermask.sparse.graph import Conv, Input, InputConv, LayerNorm, Node
from layermask.sparse.rules.table import captured, constant, decline_unless, rows_of, sparse_form
from layermask.sparse.tokens import SparseTokens
from layermask.sparse.value import Padded, SparseMasked
from layermask.sparse.weights import Norm

FEW_CHANNELS = 8  # of an image


@sparse_form(F.conv2d, torch.conv2d)
def conv2d(
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> SparseMasked:
    decline_unless(isinstance(input, Masked))
    rows = isinstance(input, SparseMasked) and not isinstance(input, SparseTokens)  # tokens are laid out
    node = input.node if rows else None
    constant(input.value if node is None else node.kind, weight, bias)
    shape = input.shape
    decline_unless(len(shape) == weight.ndim == 4, groups > 0)
    decline_unless(len(weight) % groups == 0, _is_vector(bias, len(weight)))
    decline_unless(node is None or input.order == "first", shape[1] == weight.shape[1] * groups)
    window = _window(tuple(weight.shape), _fixed(stride), _fixed(padding), _fixed(dilation))
    decline_unless(_fits(weight, groups, window), window.has_output(shape[2:]))
    if node is None:
        return _entering(input, window, weight, bias, groups)
    visible = _grown(input, window)
    if isinstance(input, Padded):
        decline_unless(not window.pointlike)
        window = _widened(window, input.pads)
    last = input.strided_last or _strided_last(weight)
    return SparseMasked(
        Conv(node, visible, window, captured(node.forward_pass, weight, bias), groups), strided_last=last
    )


@functools.lru_cache(maxsize=1024)
def _window(shape: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> Window:
    """The same window for the same layer in every pass: it remembers what was asked of it."""
    same = padding == "same" and stride in (1, (1,), (1, 1))
    decline_unless(_plausible(stride, 1), _plausible(dilation, 1))
    decline_unless(same or padding == "valid" or _plausible(padding, 0))
    return conv_window(torch.empty(shape, device="meta"), stride, padding, dilation)


def _plausible(sizes: Any, least: int) -> bool:
    """Whether torch takes these sizes along two axes."""
    each = sizes if isinstance(sizes, tuple) else (sizes,)
    return len(each) in (1, 2) and all(isinstance(size, int) and size >= least for size in each)


def _fixed(sizes: Any) -> Any:
    return tuple(sizes) if isinstance(sizes, list) else sizes


def _is_vector(x: Tensor | None, size: int) -> bool:
    """Whether there are so many numbers, or none are given. Else the dense rule raises the error of torch."""
    return x is None or x.shape == (size,)


def _grown(x: Masked, window: Window) -> Tensor:
    """The mask behind a window op; declines where a window lies in padding alone, or one cell is left."""
    visible, is_padding = grow(x, window)
    decline_unless(is_padding is None or not bool(is_padding.any()), visible[0, 0].numel() > 1)
    return visible


def _fits(weight: Tensor, groups: int, window: Window) -> bool:
    """Groups of few channels are left to the dense engine, but for one channel each."""
    depthwise = weight.shape[1] == 1 and groups == len(weight) and not window.pointlike
    return max(window.reach) < NEVER and (groups == 1 or depthwise or weight.shape[1] >= FEW_CHANNELS)


def _widened(window: Window, pads: tuple[int, int, int, int]) -> Window:
    left, right, top, bottom = pads
    before = (window.before[0] + top, window.before[1] + left)
    after = (window.after[0] + bottom, window.after[1] + right)
    return dataclasses.replace(window, before=before, after=after)


def _strided_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _entering(x: Masked, window: Window, weight: Tensor, bias: Tensor | None, groups: int) -> SparseMasked:
    """From here on only what is visible is computed."""
    value, forward_pass = x.value, x.forward_pass
    decline_unless(
        forward_pass is not None and forward_pass.sparse_engine.takes(value), x.softmax_axis is None
    )
    assert forward_pass is not None
    decline_unless(len(x.visible) > 0)  # a detector that found no box
    decline_unless(
        x.visible.shape[1] == 1, x.visible.shape[2:] == value.shape[2:], math.prod(value.shape[2:]) > 1
    )
    visible = _grown(x, window)
    forward_pass.rows = True
    last = _strided_last(value) or _strided_last(weight)
    if value.shape[1] <= FEW_CHANNELS and groups == 1 and window.dilation[1] == 1:
        node: Node = InputConv(
            forward_pass, filled(x, window), visible, window, captured(forward_pass, weight, bias)
        )
    else:
        decline_unless(x.is_padding is None)
        given = Input(forward_pass, x.visible, value)
        node = Conv(given, visible, window, captured(forward_pass, weight, bias), groups)
    return SparseMasked(node, strided_last=last)


@sparse_form(F.linear)
def linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> SparseMasked:
    return _with_channels(input, projected(channels_last_rows(input), weight, bias))


def projected(node: Node, weight: Tensor, bias: Tensor | None) -> Node:
    """A linear layer of the channels."""
    constant(node.kind, weight, bias)
    decline_unless(weight.ndim == 2, weight.shape[1] == node.channels, _is_vector(bias, len(weight)))
    point = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))
    return Conv(node, node.mask, point, captured(node.forward_pass, weight, bias))


def channels_last_rows(x: Any) -> Node:
    node = rows_of(x, "last", "tokens")
    decline_unless(x.order == "last" or channels_last(x.axes, node.channels))
    return node


def _with_channels(x: SparseMasked, node: Node) -> SparseMasked:
    """A new value, with the axes of `x` but for the channels: torch lays it out in order."""
    if isinstance(x, SparseTokens):
        return SparseTokens(node, with_channels(x.axes, node.channels))
    return SparseMasked(node, "last", strided_last=True)


@sparse_form(F.batch_norm)
def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> SparseMasked:
    node = rows_of(input)
    vectors = (running_mean, running_var, weight, bias)
    constant(node.kind, *vectors)
    decline_unless(not training, running_mean is not None, running_var is not None, momentum is not None)
    decline_unless(all(_is_vector(vector, node.channels) for vector in vectors))
    norm = Norm(captured(node.forward_pass, *vectors), eps)
    return SparseMasked(Affine(node, norm), strided_last=input.strided_last)


@sparse_form(F.layer_norm, torch.layer_norm)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> SparseMasked:
    node = channels_last_rows(input)
    constant(node.kind, weight, bias)
    decline_unless(tuple(normalized_shape) == (node.channels,))
    decline_unless(_is_vector(weight, node.channels), _is_vector(bias, node.channels))
    weight, bias = (x if x is None else x.detach().clone() for x in (weight, bias))  # computed later
    return _with_channels(input, LayerNorm(node, weight, bias, eps))
