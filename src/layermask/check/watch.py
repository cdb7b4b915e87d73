"""Look over the shoulder of a model as it runs masked: a callback around every op that it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from layermask.core.forward_pass import ForwardPass
from layermask.core.masked import Masked, masked_in

Call = Callable[[], Any]
See = Callable[[Callable, tuple, dict, Call], Any]


def watched(x: Masked, see: See) -> Masked:
    """Return `x` at the start of a pass in which `see(function, args, kwargs, call)` answers for each op.

    `call()` is what the rule returns; it raises NoMaskRule where there is none. What rules call of one
    another is not seen.
    """
    x.forward_pass, x.aliased = ForwardPass(watch=see), True  # the caller holds the value too
    return x


def poisoned(x: Masked, scale: float = 3.0) -> Masked:
    """Return `x` at the start of a pass in which every op returns noise in its hidden entries.

    No other op may let it through.
    """

    def poison(function: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        held = {_storage(x) for x in masked_in(args, kwargs)}  # a view's owner has its noise
        output = call()
        for x in masked_in(output):
            if _storage(x) not in held and x.value.is_floating_point():
                x.value = _with_noise(x, scale)
        return output

    return watched(x, poison)


def _storage(x: Masked) -> int:
    return x.value.untyped_storage().data_ptr()


def _with_noise(x: Masked, scale: float) -> torch.Tensor:
    value = x.value.clone()  # of the same strides, which choose the kernel
    if value.stride() != x.value.stride():  # overlaps itself: expanded, say
        return x.value
    return value.copy_(torch.where(x.visible, value, scale * torch.randn_like(value)))
