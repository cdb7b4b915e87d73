"""Reductions: over positions only what is visible counts, as in numpy.ma.

The mean is the paper's h_m(x, m) = h(x * m) / h(m) (section 3.2), for any axes. A sum is of what is visible,
as products and running sums are: nothing is rescaled. What has nothing visible is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import any_over, axis_of, cached, share, varies
from layermask.core.masked import (
    Masked,
    determined,
    has_positions,
    same_mask,
    settings_of,
    zero_hidden,
    zero_undetermined,
)
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule

Dims = int | Sequence[int] | None


def axes(x: Masked, dim: Dims) -> tuple[int, ...]:
    """The reduced axes as non-negative numbers; None and () mean all."""
    if dim is None or x.value.ndim == 0 or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(x.value.ndim))
    return tuple(axis_of(d, x.value.ndim) for d in ([dim] if isinstance(dim, int) else dim))


def visible_share(x: Masked, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor:
    """The visible fraction along the reduced axes, shaped as the result."""

    def compute() -> Tensor:
        out = share(x.visible, dims, dtype)
        return (
            out
            if keepdim or out.ndim == 0
            else out.reshape([n for d, n in enumerate(out.shape) if d not in dims])
        )

    return cached(x.forward_pass, "share along", (x.visible,), (tuple(dims), keepdim, dtype), compute)


def reduced(x: Masked, value: Tensor, dims: Sequence[int], keepdim: bool) -> Masked:
    """A reduction's result: visible where anything it read was."""
    visible = any_over(x.forward_pass, x.visible, dims, keepdim)
    if x.is_padding is None or varies(x.is_padding, dims):
        return Masked(value, visible)
    return Masked(
        value, visible, is_padding=any_over(x.forward_pass, x.is_padding, dims, keepdim)
    )  # of channels


def epsilon(x: Masked) -> float:
    """What the released code adds to the visible fraction of a global mean."""
    return 1e-8 if settings_of(x).compat == "release" else 0.0


@rule(torch.mean, Tensor.mean)
def mean(
    input: Masked, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Masked:
    dims = axes(input, dim)
    if not varies(input.visible, dims):
        return reduced(input, input.value.mean(dims, keepdim, dtype=dtype), dims, keepdim)
    out = zero_hidden(input).mean(dims, keepdim, dtype=dtype)
    return reduced(
        input, out / (visible_share(input, dims, keepdim, out.dtype) + epsilon(input)), dims, keepdim
    )


@rule(torch.sum, Tensor.sum)
def sum(
    input: Masked, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Masked:
    dims = axes(input, dim)
    value = zero_hidden(input) if varies(input.visible, dims) else input.value
    return reduced(input, value.sum(dims, keepdim, dtype=dtype), dims, keepdim)


def _extreme(function: Callable, worst: float) -> Callable:
    def rule(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """Over visible entries; of two tensors, entry by entry."""
        dim = dim if other is None else other
        if isinstance(dim, (Tensor, Masked)):
            either: Callable = torch.maximum if worst < 0 else torch.minimum
            return either(input, dim)
        dims = axes(input, dim)
        seen = _counts(input, dims, keepdim)
        out = function(hidden_last(input, worst, dims), *(() if dim is None else (dim, keepdim)))
        if isinstance(out, Tensor):
            out = torch.where(seen, out, out.new_zeros(()))
            return reduced(input, out, dims, keepdim)
        values, places = out
        if not values.is_floating_point() and input.value.ndim:
            best = values if keepdim else values.unsqueeze(dim)
            places = _among_visible(input, input.value == best, places, dim, keepdim)
        values = reduced(input, torch.where(seen, values, values.new_zeros(())), dims, keepdim)
        return type(out)((values, placed(input, places, dims, keepdim)))

    return rule


def _counts(x: Masked, dims: Sequence[int], keepdim: bool) -> Tensor:
    """Where the result of a reduction counts: anything is visible, or what is hidden is determined."""
    seen = any_over(x.forward_pass, x.visible, dims, keepdim)
    return torch.ones_like(seen) if determined(x, dims) else seen


def hidden_last(x: Masked, worst: float, dims: Sequence[int] | None = None) -> Tensor:
    """The value with `worst` (plus or minus infinity, or the nearest number to it) at hidden entries.

    Not where they are determined along `dims`, over which an extreme is taken.
    """
    if dims is not None and determined(x, dims):
        return x.value
    extreme = worst if x.value.is_floating_point() else _integer_extreme(x.value, worst)
    return torch.where(x.visible, x.value, extreme)


def _integer_extreme(value: Tensor, worst: float) -> int | bool:
    if value.dtype is torch.bool:
        return worst > 0
    info = torch.iinfo(value.dtype)
    return info.min if worst < 0 else info.max


for name, worst in (("max", -math.inf), ("amax", -math.inf), ("min", math.inf), ("amin", math.inf)):
    for space in (torch, Tensor):
        rule(getattr(space, name))(_extreme(getattr(space, name), worst))


def _chosen(function: Callable, worst: float) -> Callable:
    def rule(input: Masked, dim: int | None = None, keepdim: bool = False) -> Any:
        """The place of the extreme visible entry."""
        dims = axes(input, dim)
        value = hidden_last(input, worst, dims)
        chosen = function(value, dim, keepdim)
        if not value.is_floating_point() and value.ndim:
            extreme = value.amax(dims, True) if worst < 0 else value.amin(dims, True)
            chosen = _among_visible(input, value == extreme, chosen, dim, keepdim)
        return placed(input, chosen, dims, keepdim)

    return rule


def placed(x: Masked, places: Tensor, dims: Sequence[int], keepdim: bool) -> Any:
    """Places along `dims`: plain, or masked as the cells are if each cell has its own, as a pixel's class."""
    if varies(x.visible, dims) or not has_positions(x):
        return places
    return Masked(places, any_over(x.forward_pass, x.visible, dims, keepdim))


def _among_visible(x: Masked, wanted: Tensor, chosen: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """The first visible of the wanted entries: what stands for hidden is no larger than any integer.

    Where nothing is hidden, or all is, what torch has chosen.
    """
    shown = (wanted & x.visible).to(torch.uint8).argmax(dim, keepdim)
    dims = axes(x, dim)
    asis = everything(x, dims, keepdim) | ~any_over(x.forward_pass, x.visible, dims, keepdim)
    return torch.where(asis, chosen, shown)


for name, worst in (("argmax", -math.inf), ("argmin", math.inf)):
    for space in (torch, Tensor):
        rule(getattr(space, name))(_chosen(getattr(space, name), worst))


def moments(x: Masked, dims: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of the visible entries along `dims`, which are kept."""
    value = zero_hidden(x)
    total = math.prod([x.value.shape[d] for d in dims])
    kind = value.real.dtype if value.is_complex() else value.dtype
    part = visible_share(x, dims, True, torch.promote_types(kind, torch.float32))
    scale = part.to(kind)
    center = value.mean(tuple(dims), keepdim=True) / scale
    away = torch.where(x.visible, value - center, 0.0)
    away = torch.view_as_real(away).square().sum(-1) if away.is_complex() else away.square()
    spread = away.mean(tuple(dims), keepdim=True) / scale
    seen = any_over(x.forward_pass, x.visible, dims, True)
    return center, spread, torch.where(seen, part * total, 0.0)


def everything(x: Masked, dims: Sequence[int], keepdim: bool = True) -> Tensor:
    """Whether nothing is hidden along `dims`: there the plain kernel decides, bit for bit."""
    whole = ~any_over(
        x.forward_pass, cached(x.forward_pass, "not", (x.visible,), None, lambda: ~x.visible), dims, keepdim
    )
    return whole


@rule(torch.var, Tensor.var)
def var(
    input: Masked,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Masked:
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    correction = correction if correction is not None else float(unbiased is not False)
    dims = axes(input, dim)
    plain = zero_undetermined(input, dims).var(dims, correction=correction, keepdim=keepdim)
    if not varies(input.visible, dims):
        return reduced(input, plain, dims, keepdim)
    _, spread, number = moments(input, dims)
    left = number - correction  # where nothing is left torch answers NaN; this stays finite
    spread = spread * (number / torch.where(left > 0, left, number.clamp(min=1))).to(spread.dtype)
    spread = spread if keepdim else spread.reshape(plain.shape)
    return reduced(input, torch.where(everything(input, dims, keepdim), plain, spread), dims, keepdim)


@rule(torch.std, Tensor.std)
def std(input: Masked, *args: Any, **kwargs: Any) -> Masked:
    """The root of the variance, whose slope at 0 is 0 here as in torch, not infinite."""
    spread = input.var(*args, **kwargs)
    flat = spread.value == 0
    root = torch.where(flat, 1.0, spread.value).sqrt()
    return same_mask(spread, torch.where(flat, 0.0, root))


def _with_mean(name: str) -> Callable:
    def rule(
        input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, **more: Any
    ) -> Any:
        dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
        return getattr(input, name)(dim, unbiased, keepdim, **more), input.mean(dim, keepdim)

    return rule


rule(torch.var_mean)(_with_mean("var"))
rule(torch.std_mean)(_with_mean("std"))


@rule(torch.norm, Tensor.norm, torch.linalg.vector_norm)
def norm(
    input: Masked, p: Any = 2, dim: Dims = None, keepdim: bool = False, dtype: Any = None, **kwargs: Any
) -> Masked:
    """Of the visible entries."""
    p = kwargs.get("ord", p)
    if isinstance(p, str) and p != "fro":
        raise NoMaskRule(f"norm(p={p!r})", why="Norms of matrices have no masked meaning.")
    p = 2.0 if p in ("fro", None) else float(p)
    dims = axes(input, dim)
    value = zero_undetermined(input, dims)
    if p < 0 and not determined(input, dims):  # of the least entries, of which a hidden one is none
        value = torch.where(input.visible, value, math.inf)
    out = torch.linalg.vector_norm(value, p, dims, keepdim, dtype=dtype)
    if p < 0:
        out = torch.where(_counts(input, dims, keepdim), out, 0.0)
    return reduced(input, out, dims, keepdim)


@rule(torch.linalg.norm)
def linalg_norm(
    input: Masked, ord: Any = None, dim: Dims = None, keepdim: bool = False, dtype: Any = None
) -> Masked:
    of_matrix = input.value.ndim == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if ord is not None and of_matrix:
        raise NoMaskRule(f"torch.linalg.norm(ord={ord!r})", why="Norms of matrices have no masked meaning.")
    return norm(input, 2 if ord is None else ord, dim, keepdim, dtype)


@rule(F.normalize)
def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:
    return input / input.norm(p, dim, keepdim=True).clamp_min(eps).expand_as(input)


@rule(torch.logsumexp, Tensor.logsumexp)
def logsumexp(input: Masked, dim: Dims, keepdim: bool = False) -> Masked:
    dims, value = axes(input, dim), input.value
    if not (value.is_floating_point() or value.is_complex()):
        value = value.to(torch.get_default_dtype())
    if not determined(input, dims):
        seen = any_over(input.forward_pass, input.visible, dims, True)
        value = torch.where(input.visible, value, torch.where(seen, -math.inf, 0.0).to(value.dtype))
    return reduced(input, value.logsumexp(dims, keepdim), dims, keepdim)


@rule(torch.cumsum, Tensor.cumsum)
def cumsum(input: Masked, dim: int, *, dtype: torch.dtype | None = None) -> Masked:
    return same_mask(input, zero_undetermined(input, axes(input, dim)).cumsum(dim, dtype=dtype))


def _neutral(x: Masked, number: Any, dims: Sequence[int]) -> Tensor:
    """The value with the number that changes no result at hidden entries."""
    return x.value if determined(x, dims) else torch.where(x.visible, x.value, number)


@rule(torch.prod, Tensor.prod)
def prod(
    input: Masked, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Masked:
    """Of the visible entries."""
    value = _neutral(input, 1, axes(input, dim))
    out = value.prod(dtype=dtype) if dim is None else value.prod(dim, keepdim, dtype=dtype)
    return reduced(input, out, axes(input, dim), keepdim)


@rule(torch.cumprod, Tensor.cumprod)
def cumprod(input: Masked, dim: int, *, dtype: torch.dtype | None = None) -> Masked:
    return same_mask(input, _neutral(input, 1, axes(input, dim)).cumprod(dim, dtype=dtype))


def _boolean(function: Callable, neutral: bool) -> Callable:
    def rule(input: Masked, dim: Any = None, keepdim: bool = False) -> Masked:
        dims = axes(input, dim)
        value = _neutral(input.bool(), neutral, dims)
        value = (
            value.to(torch.uint8) if input.value.dtype is torch.uint8 else value
        )  # whose answer torch keeps so
        return reduced(input, function(value, *(() if dim is None else (dim, keepdim))), dims, keepdim)

    return rule


for name, neutral in (("any", False), ("all", True)):
    for space in (torch, Tensor):
        rule(getattr(space, name))(_boolean(getattr(space, name), neutral))
