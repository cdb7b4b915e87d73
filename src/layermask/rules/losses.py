"""Losses: of each entry by itself under the joined mask, then the mean or sum of what is visible."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from layermask.core.call_site import argument_in_call
from layermask.core.masked import Masked, replace_masked, zero_hidden_pair, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule
from layermask.rules.pointwise import pointwise
from layermask.rules.scatter import plain_only

_BY_ENTRY = """
    mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div
    soft_margin_loss hinge_embedding_loss poisson_nll_loss margin_ranking_loss
    """.split()


_OF_WEIGHTS = (F.mse_loss, F.l1_loss)


def _by_entry(function: Callable) -> Callable:
    each, signature = pointwise(function), inspect.signature(function)

    def loss(*args: Any, **kwargs: Any) -> Any:
        """Some refuse values out of range, which hidden ones may be."""
        given = signature.bind(*args, **kwargs)
        if function is F.l1_loss and not torch.compiler.is_compiling():  # whose weight torch forgets
            given.arguments["weight"] = argument_in_call(function, "weight")
        reduction = _reduction(given.arguments)
        if reduction == "mean" and given.arguments.get("weight") is not None and function in _OF_WEIGHTS:
            raise NoMaskRule(name_of(function), why="Its mean is one of weights: use reduction='none'.")
        given.arguments["reduction"] = "none"
        out = each(
            *replace_masked(given.args, zero_hidden_pair), **replace_masked(given.kwargs, zero_hidden_pair)
        )
        if reduction == "batchmean":
            return out.sum() / out.shape[0]
        return out if reduction == "none" else getattr(out, reduction)()

    return loss


def _reduction(given: dict[str, Any]) -> str:
    """How a loss is reduced; older programs say it by two flags."""
    average, reduce = given.pop("size_average", None), given.pop("reduce", None)
    if average is None and reduce is None:
        return given.get("reduction", "mean")
    if reduce is False:
        return "none"
    return "sum" if average is False else "mean"


for name in _BY_ENTRY:
    rule(getattr(F, name))(_by_entry(getattr(F, name)))


def _of_classes(function: Callable) -> Callable:
    signature = inspect.signature(function)

    def loss(input: Any, target: Any, weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Of the predictions of which all classes are visible."""
        plain_only(function, target, weight)
        given = signature.bind(None, target, weight, *args, **kwargs)
        reduction = _reduction(given.arguments)
        axis = 0 if input.ndim == 1 else 1
        given.arguments.update(input=zero_undetermined(input, (axis,)), reduction="none")
        out = Masked(function(*given.args, **given.kwargs), input.visible.all(axis))
        out.forward_pass = input.forward_pass
        if reduction == "mean" and not target.is_floating_point():
            return out.sum() / _weights(out, target, weight, given.arguments.get("ignore_index", -100)).sum()
        return out if reduction == "none" else getattr(out, reduction)()

    return loss


def _weights(out: Masked, target: Any, weight: Any, ignored: int) -> Masked:
    """By what the losses of the classes count in a mean."""
    counts = (target != ignored).to(out.value.dtype)
    if weight is not None:
        counts = counts * weight[target.clamp(min=0)]
    x = Masked(counts, out.visible)
    x.forward_pass = out.forward_pass
    return x


for name in ("cross_entropy", "nll_loss"):
    rule(getattr(F, name))(_of_classes(getattr(F, name)))
