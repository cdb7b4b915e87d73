"""Look over the shoulder of a model as it runs masked: a callback around every op that it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from layermask.masked import RULES, Masked, masked_in, overriding

Call = Callable[[], Any]
See = Callable[[Callable, tuple, dict, Call], Any]


@contextmanager
def watching(see: See) -> Iterator[None]:
    """While open, `see(function, args, kwargs, call)` answers for each rule that the model needs.

    `call()` is what the rule returns. What rules call of one another is not seen.
    """
    depth = 0

    def watched(function: Callable, body: Callable) -> Callable:
        def answer(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                if depth > 1:
                    return body(*args, **kwargs)
                return see(function, args, kwargs, lambda: body(*args, **kwargs))
            finally:
                depth -= 1

        return answer

    with overriding({function: watched(function, body) for function, body in RULES.items()}):
        yield


@contextmanager
def poisoning(scale: float = 3.0) -> Iterator[None]:
    """While open, every op returns noise in its hidden entries, which no other op may let through."""

    def poison(function: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        held = {_storage(x) for x in masked_in(args, kwargs)}  # a view's owner has its noise
        output = call()
        for x in masked_in(output):
            if _storage(x) not in held and x.value.is_floating_point():
                x.value = _with_noise(x, scale)
        return output

    with watching(poison):
        yield


def _storage(x: Masked) -> int:
    return x.value.untyped_storage().data_ptr()


def _with_noise(x: Masked, scale: float) -> torch.Tensor:
    value = x.value.clone()  # of the same strides, which choose the kernel
    if value.stride() != x.value.stride():  # overlaps itself: expanded, say
        return x.value
    return value.copy_(torch.where(x.visible, value, scale * torch.randn_like(value)))
