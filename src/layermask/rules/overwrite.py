"""Methods that work in place and are no operation on each entry by itself: the target keeps its storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.core.mask import align
from layermask.core.masked import Masked, everywhere, zero_hidden
from layermask.core.rule_table import built_in as rule


def writable(x: Masked) -> Tensor:
    """An expanded value (one image under many masks) cannot be written to in place."""
    expanded = any(step == 0 and n != 1 for n, step in zip(x.value.shape, x.value.stride(), strict=True))
    return x.value.clone() if expanded else x.value


def overwrite(target: Masked, value: Tensor, like: Masked) -> Masked:
    """Write `value` into the target's storage, which then has the mask and the marks of `like`."""
    target.value = writable(target)
    target.value.copy_(value)
    target.visible, target.is_padding, target.softmax_axis = like.visible, like.is_padding, like.softmax_axis
    return target


def become(target: Masked, out: Masked) -> Masked:
    """`target`, with the value and masks of `out`, which has its memory already."""
    target.value, target.visible, target.is_padding, target.softmax_axis = (
        out.value,
        out.visible,
        out.is_padding,
        out.softmax_axis,
    )
    return target


@rule(Tensor.copy_)
def copy_(input: Masked, other: Any, non_blocking: bool = False) -> Masked:
    """As `input[...] = other`: every entry takes the mask of what is written, and a plain one is visible."""
    target = input
    if not isinstance(other, Masked):
        shown = everywhere(target.value)
        return overwrite(target, other, Masked(target.value, shown))
    visible, is_padding = (
        m if m is None else align(m, target.value.ndim).to(target.value.device)
        for m in (other.visible, other.is_padding)
    )
    # hidden content stays out of storage that something else may call visible
    return overwrite(target, zero_hidden(other), Masked(target.value, visible, is_padding=is_padding))  # type: ignore[arg-type]  # visible is not None


def _written(name: str) -> Callable:
    def in_place(input: Masked, *args: Any, **kwargs: Any) -> Masked:
        """What the function gives out of place, written into the target."""
        out = getattr(input, name)(*args, **kwargs)
        return overwrite(input, zero_hidden(out), out)

    return in_place


def _reshaped(name: str) -> Callable:
    def in_place(input: Masked, *args: Any, **kwargs: Any) -> Masked:
        """The target becomes the view that the function gives out of place."""
        return become(input, getattr(input, name)(*args, **kwargs))

    return in_place


_FORMS: dict[Callable, str] = {
    _written: """
        addmm addmv baddbmm cumprod cumsum index_add index_copy index_fill index_put masked_scatter
        scatter scatter_add scatter_reduce tril triu
        """,
    _reshaped: "detach squeeze swapaxes swapdims t transpose unsqueeze",
}
"""How methods of a name and `_` follow from the rule of that name."""
for form, names in _FORMS.items():
    for name in names.split():
        spaces = [space for space in (Tensor, torch) if hasattr(space, f"{name}_")]
        for function in dict.fromkeys(getattr(space, f"{name}_") for space in spaces):
            rule(function)(form(name))
