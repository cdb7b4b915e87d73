"""Writing by index, out of place: what is written keeps its mask, and hidden entries are written as zero.

Where several entries go to one place, that is visible if all are (written one over the other,
where torch does not say which one stays) or if any is (added up).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layermask.core.call_site import module_path, user_line
from layermask.core.mask import align, axis_of, narrow
from layermask.core.masked import Masked, zero_hidden_pair, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule
from layermask.rules.reduce import hidden_last

Add = Callable[[Tensor, Tensor], Tensor]
"""`add(counts, numbers)`: the counts with the numbers added where the function in question writes them."""


def parts(x: Any, like: Tensor, dims: Sequence[int]) -> tuple[Any, Tensor]:
    """What may be read along `dims` of an operand, masked or plain, and its mask."""
    if isinstance(x, Masked):
        return zero_undetermined(x, dims), x.visible
    ndim = x.ndim if isinstance(x, Tensor) else 0
    return x, torch.ones([1] * ndim, dtype=torch.bool, device=like.device)


def plain_only(function: Callable, *arguments: Any) -> None:
    """Refuse masked values where a rule needs plain ones: they decide what is read or written."""
    if any(isinstance(x, Masked) for x in arguments):
        raise NoMaskRule(name_of(function), module_path(), user_line(), _PLAIN, _OTHERWISE)


_PLAIN = "Its indices, masks and the like must be plain: what is hidden there may mean anything."
_OTHERWISE = "Use F.one_hot and a product, torch.where, or decide on .value and .visible."


def _counts(add: Add, size: Sequence[int], shown: Tensor) -> Tensor:
    return add(torch.zeros(tuple(size), dtype=torch.int32, device=shown.device), shown.to(torch.int32))


def _overwritten(add: Add, size: Sequence[int], base: Tensor, shown: Tensor) -> Tensor:
    """The mask after entries whose mask is `shown` were written over what has the mask `base`."""
    written = _counts(add, size, torch.ones_like(shown)) > 0
    return torch.where(written, _counts(add, size, ~shown) == 0, base)


def _added(add: Add, size: Sequence[int], base: Tensor, shown: Tensor) -> Tensor:
    """The mask after entries whose mask is `shown` were added to what has the mask `base`."""
    written = _counts(add, size, torch.ones_like(shown)) > 0
    return base & (~written | (_counts(add, size, shown) > 0))


def _reduced(add: Add, size: Sequence[int], base: Tensor, shown: Tensor) -> Tensor:
    """The same where the target's own entry takes no part."""
    written = _counts(add, size, torch.ones_like(shown)) > 0
    return torch.where(written, _counts(add, size, shown) > 0, base)


def _along(dim: int, index: Tensor, base: Tensor, shown: Tensor, shape: Sequence[int]) -> tuple:
    """How entries are added along an axis, the size of the result, and the mask of the entries.

    The size is 1 along axes along which neither the index nor a mask varies.
    """
    steps = narrow(index).shape
    same = [
        d != dim and index.shape[d] == n and steps[d] == base.shape[d] == shown.shape[d] == 1
        for d, n in enumerate(shape)
    ]
    size = [1 if s else n for n, s in zip(shape, same, strict=True)]
    read = [1 if s else n for n, s in zip(index.shape, same, strict=True)]
    front = tuple(slice(n) for n in read)
    add: Add = lambda counts, numbers: counts.scatter_add(dim, index[front], numbers)  # noqa: E731
    return add, size, shown[front].expand(read)


def _along_axis(
    input: Any, dim: int, index: Tensor, src: Any, write: Callable, mask: Callable, hidden: Any = None
) -> Masked:
    """What `write(input, src)` gives, which writes `src` along an axis at the places that `index` names."""
    plain = input.value if isinstance(input, Masked) else input
    if plain.ndim == 0:
        input, src = (x.reshape(1) if isinstance(x, (Tensor, Masked)) else x for x in (input, src))
        return _along_axis(input, 0, index.reshape(-1), src, write, mask, hidden).reshape(())
    dim = axis_of(dim, plain.ndim)
    (value, base), (new, shown) = (
        (hidden or parts)(input, plain, (dim,)),
        (hidden or parts)(src, plain, (dim,)),
    )
    shown = align(shown, plain.ndim)
    if base is shown and base.shape[dim] == 1:
        return Masked(write(value, new), base)  # nothing leaves its line
    add, size, shown = _along(dim, index, base, shown, plain.shape)
    return Masked(write(value, new), mask(add, size, base, shown))


def _scatter(function: Callable, mask: Callable) -> Callable:
    def rule(input: Any, dim: int, index: Any, src: Any = None, **options: Any) -> Masked:
        plain_only(function, index)
        src = options.pop("value", src)
        write = lambda a, b: function(a, dim, index, b, **options)  # noqa: E731
        if options.get("reduce") is None:
            return _along_axis(input, dim, index, src, write, mask)
        return _along_axis(input, dim, index, src, write, _added, _filler(_REDUCE_OF[options["reduce"]]))

    return rule


_REDUCE_OF = {"add": "sum", "multiply": "prod"}


def _indexed(function: Callable, mask: Callable) -> Callable:
    def rule(input: Any, dim: int, index: Any, source: Any, **options: Any) -> Masked:
        plain_only(function, index)
        lengths = [-1 if d == dim % max(source.ndim, 1) else 1 for d in range(source.ndim)]
        spread = index.long().reshape(lengths).expand(source.shape)
        return _along_axis(
            input, dim, spread, source, lambda a, b: function(a, dim, index, b, **options), mask
        )

    return rule


_FORMS: dict[Callable, dict[str, Callable]] = {
    _scatter: {"scatter": _overwritten, "scatter_add": _added},
    _indexed: {"index_copy": _overwritten, "index_add": _added},
}
for form, masks in _FORMS.items():
    for name, mask in masks.items():
        for space in (torch, Tensor):
            rule(getattr(space, name))(form(getattr(space, name), mask))


def _filler(reduce: str) -> Callable:
    """How the entries of a reduction are read: those hidden as the number that changes no result."""
    worst = {"amax": -math.inf, "amin": math.inf}

    def read(x: Any, like: Tensor, dims: Sequence[int]) -> tuple[Any, Tensor]:
        value, visible = parts(x, like, dims)
        if not isinstance(x, Masked) or reduce in ("sum", "mean"):
            return value, visible
        value = hidden_last(x, worst[reduce]) if reduce in worst else torch.where(visible, x.value, 1)
        return value, visible

    return read


@rule(torch.scatter_reduce, Tensor.scatter_reduce)
def scatter_reduce(
    input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Masked:
    """Of what is visible among the entries that go to one place."""
    plain_only(torch.scatter_reduce, index)
    if reduce == "mean":
        return _scattered_mean(input, dim, index, src, include_self)
    write = lambda a, b: a.scatter_reduce(dim, index, b, reduce, include_self=include_self)  # noqa: E731
    out = _along_axis(input, dim, index, src, write, _added if include_self else _reduced, _filler(reduce))
    return zero_hidden_pair(out) if reduce in ("amax", "amin") else out


def _scattered_mean(input: Any, dim: int, index: Tensor, src: Any, include_self: bool) -> Masked:
    """The mean with zeros, times the number of entries over that of visible ones."""
    write = lambda a, b: a.scatter_reduce(dim, index, b, "mean", include_self=include_self)  # noqa: E731
    out = _along_axis(input, dim, index, src, write, _added if include_self else _reduced)
    shown = parts(src, out.value, ())[1].expand(src.shape)[tuple(map(slice, index.shape))].to(out.value.dtype)
    none = torch.zeros_like(out.value) + include_self
    total, seen = (none.scatter_add(dim, index, n) for n in (torch.ones_like(shown), shown))
    out.value = out.value * torch.where((seen == 0) | (seen == total), 1, total / seen.clamp(min=1))
    return out


@rule(torch.index_fill, Tensor.index_fill)
def index_fill(input: Masked, dim: int, index: Any, value: Any) -> Masked:
    """A number is visible wherever it is written."""
    plain_only(torch.index_fill, index, value)
    axis = axis_of(dim, max(input.value.ndim, 1))
    wide = [
        n if d == axis else m for d, (n, m) in enumerate(zip(input.shape, input.visible.shape, strict=True))
    ]
    visible = input.visible.expand(wide).index_fill(dim, index, True)
    return Masked(input.value.index_fill(dim, index, value), visible)


@rule(torch.index_put, Tensor.index_put)
def index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Masked:
    plain_only(torch.index_put, *indices)
    plain = input.value if isinstance(input, Masked) else input
    (value, base), (new, shown) = parts(input, plain, ()), parts(values, plain, ())
    add: Add = lambda counts, numbers: counts.index_put(indices, numbers, accumulate=True)  # noqa: E731
    visible = (_added if accumulate else _overwritten)(add, plain.shape, base, shown)
    return Masked(value.index_put(indices, new, accumulate), visible)


@rule(torch.masked_scatter, Tensor.masked_scatter)
def masked_scatter(input: Any, mask: Any, source: Any) -> Masked:
    """Image tokens that take their places in a text: rows of a source keep their mask as rows."""
    plain_only(torch.masked_scatter, mask)
    plain = input.value if isinstance(input, Masked) else input
    (value, base), (new, shown) = parts(input, plain, ()), parts(source, plain, ())
    mask = mask.broadcast_to(torch.broadcast_shapes(mask.shape, plain.shape))
    base = align(base, mask.ndim)
    rows = mask.ndim > 0 and source.ndim > 0 and source.shape[-1] == mask.shape[-1]
    if rows and narrow(mask).shape[-1] == base.shape[-1] == shown.shape[-1] == 1:
        where, shown = mask[..., :1], shown.expand(*source.shape[:-1], 1)
    else:
        where, shown = mask, shown.expand(source.shape)
    visible = base.expand(where.shape).masked_scatter(where, shown)
    return Masked(value.masked_scatter(mask, new), visible)
