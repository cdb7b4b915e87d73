"""Order statistics over visible entries: the k-th smallest, medians, quantiles; and means that skip NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.core.mask import any_over, varies
from layermask.core.masked import (
    Masked,
    determined,
    same_mask,
    zero_hidden,
    zero_hidden_pair,
    zero_undetermined,
)
from layermask.core.rule_table import built_in as rule
from layermask.rules.reduce import axes, everything, hidden_last, reduced
from layermask.rules.scatter import plain_only

if TYPE_CHECKING:
    from jaxtyping import Int


def _counting(x: Masked, dim: int) -> Tensor:
    """Which entries count along an axis."""
    seen = torch.ones_like(x.visible) if determined(x, (dim,)) else x.visible
    return seen.expand(x.value.shape)


def _ranked(x: Masked, out: Any, rank: Tensor, dim: int, keepdim: bool) -> Any:
    """The (values, indices) of a torch function, but of the entry of a rank where something is hidden.

    `rank`: from 0, kept along `dim`. Where no more entries are visible than that, the result is hidden.
    """
    counts = _counting(x, dim)
    by_value = torch.where(counts, x.value, 0).argsort(dim=dim, stable=True)  # NaN last
    order = by_value.gather(
        dim, (~counts).gather(dim, by_value).to(torch.uint8).argsort(dim=dim, stable=True)
    )
    place = order.gather(dim, rank.clamp(0, x.value.shape[dim] - 1))
    enough = (rank < counts.sum(dim, keepdim=True)) & any_over(x.forward_pass, x.visible, (dim,), True)
    values, places = (t if keepdim else t.unsqueeze(dim) for t in out)
    whole = counts.all(dim, keepdim=True)
    value = torch.where(
        whole, values, torch.where(rank < counts.sum(dim, keepdim=True), x.value.gather(dim, place), 0)
    )
    place = torch.where(whole, places, place)
    value, enough, place = (t if keepdim else t.squeeze(dim) for t in (value, enough, place))
    return type(out)((Masked(value, enough), place))


@rule(torch.kthvalue, Tensor.kthvalue)
def kthvalue(input: Masked, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """Of the visible entries; hidden where there are fewer than k."""
    if input.value.ndim == 0:
        return _of_a_number(input, lambda x: x.kthvalue(k))
    out = torch.kthvalue(_comparable(input, dim), k, dim, keepdim)
    rank = torch.full_like(input.value.narrow(dim, 0, 1), k - 1, dtype=torch.long)
    return _ranked(input, out, rank, dim, keepdim)


def _comparable(x: Masked, dim: int) -> Tensor:
    return torch.where(_counting(x, dim), x.value, 0)


def _of_a_number(x: Masked, function: Callable) -> Any:
    out = function(x.reshape(1))
    return type(out)((out[0].reshape(()), out[1].reshape(())))


def _median(function: Callable, skips_nan: bool) -> Callable:
    def rule(input: Masked, dim: int | None = None, keepdim: bool = False) -> Any:
        """The lower of two in the middle, as in torch."""
        if dim is None:
            return rule(input.reshape(-1), 0)[0]
        if input.value.ndim == 0:
            return _of_a_number(input, lambda x: rule(x, 0))
        counts = _counting(input, dim)
        missing = counts & input.value.isnan()
        number = (counts & ~missing).sum(dim, keepdim=True)
        rank = (number - 1).clamp(min=0) // 2
        if not skips_nan:  # one NaN makes the median NaN, which stands last
            rank = torch.where(missing.any(dim, keepdim=True), counts.sum(dim, keepdim=True) - 1, rank)
        return _ranked(input, function(_comparable(input, dim), dim, keepdim), rank, dim, keepdim)

    return rule


def _quantile(function: Callable, skips_nan: bool) -> Callable:
    def rule(
        input: Masked, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
    ) -> Masked:
        """Hidden entries are left out as `nanquantile` leaves out NaN."""
        plain_only(function, q)
        dims = axes(input, dim)
        seen = any_over(input.forward_pass, input.visible, dims, keepdim)
        seen = seen[None] if isinstance(q, Tensor) and q.ndim else seen
        out = function(zero_undetermined(input, dims), q, dim, keepdim, interpolation=interpolation)
        if not varies(input.visible, dims):
            return Masked(out, seen)
        left = torch.where(input.visible, input.value, math.nan)
        part = torch.nanquantile(left, q, dim, keepdim, interpolation=interpolation)
        if not skips_nan:
            missing = any_over(None, input.visible & input.value.isnan(), dims, keepdim)
            part = torch.where(missing, math.nan, part)
        out = torch.where(everything(input, dims, keepdim), out, part)
        return Masked(torch.where(seen, out, 0), seen)

    return rule


@rule(torch.nanmean, Tensor.nanmean)
def nanmean(
    input: Masked, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Masked:
    """Of the visible entries that are not NaN."""
    dims = axes(input, dim)
    value = input.value if determined(input, dims) else torch.where(input.visible, input.value, math.nan)
    return zero_hidden_pair(reduced(input, value.nanmean(dims, keepdim, dtype=dtype), dims, keepdim))


@rule(torch.nansum, Tensor.nansum)
def nansum(
    input: Masked, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Masked:
    dims = axes(input, dim)
    return reduced(input, zero_undetermined(input, dims).nansum(dims, keepdim, dtype=dtype), dims, keepdim)


def _running(function: Callable, worst: float) -> Callable:
    def rule(input: Masked, dim: int) -> Any:
        """The extreme of the visible entries so far, and its place."""
        value, place = function(hidden_last(input, worst, axes(input, dim)), dim)
        return type(function(value, dim))((zero_hidden_pair(same_mask(input, value)), place))

    return rule


@rule(torch.logcumsumexp, Tensor.logcumsumexp)
def logcumsumexp(input: Masked, dim: int) -> Masked:
    value = hidden_last(input, -math.inf, axes(input, dim)).logcumsumexp(dim)
    return zero_hidden_pair(same_mask(input, value))


_FORMS: dict[str, tuple[Callable, Any]] = {
    "median": (_median, False),
    "nanmedian": (_median, True),
    "quantile": (_quantile, False),
    "nanquantile": (_quantile, True),
    "cummax": (_running, -math.inf),
    "cummin": (_running, math.inf),
}
for name, (form, option) in _FORMS.items():
    for space in (torch, Tensor):
        rule(getattr(space, name))(form(getattr(space, name), option))


@rule(torch.aminmax, Tensor.aminmax)
def aminmax(input: Masked, *, dim: int | None = None, keepdim: bool = False) -> Any:
    dims = () if dim is None else dim
    return type(input.value.new_zeros(1).aminmax())((input.amin(dims, keepdim), input.amax(dims, keepdim)))


@rule(torch.msort, Tensor.msort)
def msort(input: Masked) -> Masked:
    return input.sort(0)[0]


@rule(torch.dist, Tensor.dist)
def dist(input: Any, other: Any, p: float = 2) -> Masked:
    return (input - other).norm(p)


@rule(torch.count_nonzero, Tensor.count_nonzero)
def count_nonzero(input: Masked, dim: Any = None) -> Masked:
    return input.ne(0).sum(dim)


@rule(torch.nonzero, Tensor.nonzero)
def nonzero(input: Masked, *, as_tuple: bool = False) -> Any:
    """Places of visible entries, as plain indices: how many there are depends on the values anyway."""
    return zero_hidden(input).nonzero(as_tuple=as_tuple)


@rule(torch.argwhere, Tensor.argwhere)
def argwhere(input: Masked) -> Int[Tensor, "P D"]:
    return zero_hidden(input).argwhere()
