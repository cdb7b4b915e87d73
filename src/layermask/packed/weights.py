"""Weights in the order of rows, batch norms folded in, kept from one pass to the next."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kernels import wide


class Prepared:
    """What was computed of a model's weights, until one of them changes or is gone."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[list, Any]] = {}

    def get(self, weights: tuple[Tensor | None, ...], params: Hashable, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave before for the same weights in the same state."""
        first = weights[0]
        assert first is not None
        state = [None if w is None else _state(w) for w in weights]
        if any(w is not None and w.is_inference() for w in weights):  # whose changes leave no trace
            return compute()
        key = (id(first), params)
        known = self._kept.get(key)
        if known is None or not _same(known[0], state):
            weakref.finalize(first, self._kept.pop, key, None)
            self._kept[key] = known = (state, compute())
        return known[1]


def _state(weight: Tensor) -> tuple:
    version = 0 if weight.is_inference() else weight._version
    return weakref.ref(weight), weight.data_ptr(), version, weight.dtype


def _same(a: list, b: list) -> bool:
    for one, other in zip(a, b, strict=True):
        if (one is None) != (other is None):
            return False
        if one is not None and (one[0]() is not other[0]() or one[1:] != other[1:]):
            return False
    return True


@dataclass(eq=False)
class Norm:
    """A batch norm in evaluation: the four vectors, of which weight and bias may be missing, and epsilon."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.mean, self.var, self.weight, self.bias

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each, in float64: the norm is x * scale + shift."""
        scale = torch.rsqrt(self.var.double() + self.eps)
        scale = scale if self.weight is None else scale * self.weight.double()
        shift = -self.mean.double() * scale
        return scale, shift if self.bias is None else shift + self.bias.double()


@dataclass(eq=False)
class Scale:
    """A number per channel, as ConvNeXt's layer scale; in the place of a norm."""

    factor: Tensor
    eps: float = 0.0

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.factor,)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.factor.double().flatten()
        return scale, torch.zeros_like(scale)


def folded(
    weight: Tensor, bias: Tensor | None, norms: Sequence[Norm | Scale]
) -> tuple[Tensor, Tensor | None]:
    """A convolution's weight and bias, as rows meet them, with the norms behind it folded in."""
    weight, bias = wide(weight), bias if bias is None else wide(bias)
    if not norms:
        return weight, bias
    exact, shift = weight.double(), 0.0 if bias is None else bias.double()
    for norm in norms:
        scale, offset = norm.scale_and_shift()
        exact = exact * scale.reshape(-1, *[1] * (weight.ndim - 1))
        shift = shift * scale + offset
    return exact.to(weight.dtype), shift.to(weight.dtype)  # type: ignore[union-attr]  # a tensor by now
