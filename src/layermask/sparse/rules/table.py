"""The table of sparse forms of rules, and what each of them may ask of its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layermask.core.forward_pass import ForwardPass
from layermask.core.rule_table import RULES
from layermask.errors import NoRows
from layermask.sparse.graph import Node
from layermask.sparse.tokens import SparseTokens
from layermask.sparse.value import SparseMasked
from layermask.sparse.weights import Captured

SPARSE_FORMS: dict[Callable, tuple[Callable, Callable | None]] = {}
"""torch function -> its sparse form, and the dense rule it stands for (none other may have replaced that)."""


def sparse_form(*functions_: Callable) -> Callable[[Callable], Callable]:
    """Register the sparse form of functions; it takes their parameters, and raises NoRows to decline.

    A function may have several, for values of other axes: what one declines, the next is asked for.
    """

    def register(body: Callable) -> Callable:
        for function in functions_:
            known = SPARSE_FORMS.get(function)
            SPARSE_FORMS[function] = (_either(known[0], body) if known else body, RULES.get(function))
        return body

    return register


def _either(first: Callable, second: Callable) -> Callable:
    @functools.wraps(first)
    def body(*args: Any, **kwargs: Any) -> Any:
        try:
            return first(*args, **kwargs)
        except NoRows:
            return second(*args, **kwargs)

    return body


def decline_unless(*conditions: bool) -> None:
    if not all(conditions):
        raise NoRows


def rows_of(x: Any, *orders: str | None) -> Node:
    """The node of a sparse value in one of these orders (None: any; by default "first")."""
    decline_unless(type(x) in (SparseMasked, SparseTokens), getattr(x, "node", None) is not None)
    decline_unless(x.is_padding is None, x.softmax_axis is None)
    decline_unless(x.order in (orders or ("first",)) or None in orders)
    return x.node


def captured(forward_pass: ForwardPass, *weights: Tensor | None) -> Captured:
    """Weights as they are now, for an operator that may be computed later."""
    return forward_pass.sparse_engine.prepared.capture(*weights)


def constant(kind: Tensor, *tensors: Tensor | None) -> None:
    """Decline weights that are differentiated, of a subclass, or not of the dtype and device of `kind`."""
    dtype, device, differentiable = kind.dtype, kind.device, torch.is_grad_enabled()
    for t in tensors:
        if t is None:
            continue
        if type(t) not in (Tensor, nn.Parameter) or t.dtype is not dtype or t.device != device:
            raise NoRows
        if t.layout is not torch.strided or (differentiable and t.requires_grad):
            raise NoRows
