"""Fourier transforms over positions mix all of them with fixed weights, so hidden ones count as zero.

What comes out reads every position: it is visible where anything along the transformed axes is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from layermask.core.mask import any_over, narrow
from layermask.core.masked import Masked, zero_undetermined
from layermask.core.rule_table import built_in as rule

if TYPE_CHECKING:
    from jaxtyping import Complex, Float


def _transform(function: Callable, last: tuple[int, ...] | None) -> Callable:
    def rule(input: Masked, s: Any = None, dim: Any = last, norm: str | None = None, **kwargs: Any) -> Masked:
        s = kwargs.get("n", s)  # the name it has in transforms of one axis
        over = dim
        if over is None:
            over = range(input.value.ndim) if s is None else range(-len(s), 0)
        over = (over,) if isinstance(over, int) else over
        dim = dim[0] if last == (-1,) and isinstance(dim, tuple) else dim
        value = function(zero_undetermined(input, over), s, dim, norm)
        return Masked(value, any_over(input.forward_pass, input.visible, over, keepdim=True))

    return rule


_AXES = {"fft": (-1,), "fft2": (-2, -1), "fftn": None}
for kind, last in _AXES.items():
    for prefix in ("", "i", "r", "ir", "h", "ih"):
        function = getattr(torch.fft, prefix + kind)
        rule(function)(_transform(function, last))


def _shift(function: Callable) -> Callable:
    def rule(input: Masked, dim: Any = None) -> Masked:
        return Masked(function(input.value, dim), function(input.visible.expand(input.value.shape), dim))

    return rule


for function in (torch.fft.fftshift, torch.fft.ifftshift):
    rule(function)(_shift(function))


@rule(torch.view_as_real)
def view_as_real(input: Complex[Masked, "*S"]) -> Float[Masked, "*S 2"]:
    return Masked(torch.view_as_real(input.value), input.visible[..., None])


@rule(torch.view_as_complex)
def view_as_complex(input: Float[Masked, "*S 2"]) -> Complex[Masked, "*S"]:
    """A number is visible if both its parts are."""
    return Masked(torch.view_as_complex(input.value), narrow(input.visible.all(-1)))
