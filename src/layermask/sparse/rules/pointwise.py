"""Sparse forms of what is done entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import identities
from layermask.core.dispatch import INPLACE
from layermask.core.masked import Masked
from layermask.kernels.activation import Activation
from layermask.rules.pointwise import functions
from layermask.sparse.fuse import ActivationNode, Affine, Sum
from layermask.sparse.graph import ChannelScale, Node, Pointwise
from layermask.sparse.operands import PerImage, meet
from layermask.sparse.rules.table import SPARSE_FORMS, captured, decline_unless, rows_of, sparse_form
from layermask.sparse.value import SparseMasked
from layermask.sparse.weights import Scale


def _ended(x: Any, end: Activation, in_place: bool) -> SparseMasked:
    return _replaced(x, ActivationNode(rows_of(x, None), end), in_place)


def _replaced(x: SparseMasked, node: Node, in_place: bool) -> SparseMasked:
    if not in_place:
        return x.like_this(node)
    decline_unless(not x.seen_by_others)
    return x.replace_node(node)


RELU = Activation("clamp", 0.0, math.inf)


@sparse_form(torch.relu_, Tensor.relu_)
def relu_(input: Any) -> SparseMasked:
    return _ended(input, RELU, True)


@sparse_form(F.hardtanh)
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> SparseMasked:
    decline_unless(min_val <= max_val)
    return _ended(input, Activation("clamp", float(min_val), float(max_val)), inplace)


@sparse_form(F.leaky_relu)
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> SparseMasked:
    return _ended(input, Activation("leaky_relu", float(negative_slope)), inplace)


@sparse_form(F.gelu)
def gelu(input: Any, approximate: str = "none") -> SparseMasked:
    if approximate == "tanh":
        node = rows_of(input, None)
        return input.like_this(Pointwise(lambda _, rows: F.gelu(rows, approximate="tanh"), node.mask, node))
    decline_unless(approximate == "none")
    return _ended(input, Activation("gelu"), False)


@sparse_form(torch.sigmoid, Tensor.sigmoid)
def sigmoid(input: Any) -> SparseMasked:
    return _ended(input, Activation("sigmoid"), False)


def _ending(function: Callable, end: Activation) -> None:
    @sparse_form(function)
    def activation(input: Any, inplace: bool = False) -> SparseMasked:
        return _ended(input, end, inplace)


for function in (F.relu, torch.relu, Tensor.relu):
    _ending(function, RELU)
_ending(F.relu6, Activation("clamp", 0.0, 6.0))
for function in (F.silu, F.hardsigmoid, F.hardswish):
    _ending(function, Activation(function.__name__))


@sparse_form(F.dropout, F.dropout2d, torch.dropout)
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> SparseMasked:
    rows_of(input, None)
    decline_unless(not training, 0 <= p <= 1)
    return input


_ENTRYWISE = frozenset(
    """
    silu gelu hardswish hardsigmoid sigmoid tanh leaky_relu elu selu celu mish softplus softsign logsigmoid
    exp expm1 log1p logit neg abs sqrt rsqrt square reciprocal pow maximum minimum clamp
    clamp_min clamp_max add sub rsub mul div truediv true_divide radd rmul rtruediv iadd isub imul
    itruediv multiply divide subtract addcmul addcdiv lerp
    """.split()
)
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}


def _entrywise(function: Callable, in_place: bool) -> Callable:
    apart = _out_of_place(function) if in_place else function

    def rule(*args: Any, **kwargs: Any) -> SparseMasked:
        in_place_now = in_place or bool(kwargs.pop("inplace", False))
        operands = [a for a in args if isinstance(a, (Masked, Tensor))]
        inputs = [a for a in operands if isinstance(a, SparseMasked)]
        decline_unless(bool(inputs), not any(isinstance(v, (Masked, Tensor)) for v in kwargs.values()))
        decline_unless(not in_place_now or operands[0] is inputs[0])
        decline_unless(operands[0] is inputs[0] or inputs[0].strided_as_first)
        node = _met(apart, args, kwargs, inputs)
        return _replaced(inputs[0], node, in_place_now)

    return rule


def _met(function: Callable, args: tuple, kwargs: dict, inputs: list[SparseMasked]) -> Node:
    decline_unless(all(isinstance(a, (Masked, Tensor, int, float)) for a in args))
    others = [a for a in args if isinstance(a, (Masked, Tensor)) and not isinstance(a, SparseMasked)]
    mask, forms = meet(inputs, others)
    form_of = dict(zip(identities(*others), forms, strict=True))
    parts = [a.node if isinstance(a, SparseMasked) else form_of.get(identities(a)[0], a) for a in args]
    nodes = [part for part in parts if isinstance(part, Node)]
    channels = max(node.channels for node in nodes)
    decline_unless(nodes[0].channels == channels)
    if function in _SUMS and not kwargs and len(nodes) == 2 and nodes[1].channels == channels:
        return Sum(mask, *nodes)
    if function in _PRODUCTS and len(args) == 2 and len(nodes) == 1:
        (other,) = (part for part in parts if part is not nodes[0])
        if isinstance(other, PerImage) and other.vectors.shape[1] == channels:
            if other.parameter is not None and len(other.vectors) == 1:
                return Affine(nodes[0], Scale(captured(nodes[0].forward_pass, other.parameter)))
            return ChannelScale(nodes[0], mask, other.vectors)

    def apply(mask: Tensor, *rows: Tensor) -> Tensor:
        left = iter(rows)
        given = [
            next(left) if isinstance(part, Node) else part(mask) if callable(part) else part for part in parts
        ]
        return function(*given, **kwargs)

    return Pointwise(apply, mask, *nodes)


def _out_of_place(function: Callable) -> Callable:
    name = function.__name__
    apart = f"__{name[3:]}" if name in INPLACE else name[:-1]
    return next(getattr(space, apart) for space in (Tensor, torch, F) if hasattr(space, apart))


for function, in_place in functions():
    stem = function.__name__.strip("_")
    if stem in _ENTRYWISE and function not in SPARSE_FORMS:
        sparse_form(function)(_entrywise(function, in_place))
