"""Fourier transforms over positions mix all of them with fixed weights, so hidden ones count as zero.

What comes out reads every position: it is visible where anything along the transformed axes is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from layermask.core.call_site import module_path, user_line
from layermask.core.mask import any_over, narrow
from layermask.core.masked import Masked, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule

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


def _stft(function: Callable) -> Callable:
    def rule(
        input: Masked,
        n_fft: int,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: Any = None,
        center: bool = True,
        pad_mode: str = "reflect",
        *options: Any,
        **more: Any,
    ) -> Masked:
        """Hidden samples count as zero; a frame is visible if the window reads a visible sample."""
        if isinstance(window, Masked) or more.get("align_to_window"):
            why = "Its window must be plain, and not aligned to."
            raise NoMaskRule("torch.stft", module_path(), user_line(), why)
        hop, length = hop_length or n_fft // 4, win_length or n_fft
        value = function(
            zero_undetermined(input, (-1,)), n_fft, hop, length, window, center, pad_mode, *options, **more
        )
        frames = value.ndim - (not value.is_complex()) - 1
        if input.visible.shape[-1] == 1:
            shown = input.visible[..., None]
        else:
            samples = input.visible.to(torch.float32).reshape(-1, 1, input.shape[-1])
            samples = F.pad(samples, [n_fft // 2] * 2, pad_mode) if center else samples
            start = (n_fft - length) // 2
            seen = samples.unfold(-1, n_fft, hop)[..., start : start + length].amax(-1) > 0
            shown = seen.reshape(*input.visible.shape[:-1], 1, value.shape[frames])
        return Masked(value, shown if value.is_complex() else shown[..., None])

    return rule


for function in (torch.functional.stft, torch.Tensor.stft):
    rule(function)(_stft(function))


@rule(torch.view_as_real)
def view_as_real(input: Complex[Masked, "*S"]) -> Float[Masked, "*S 2"]:
    return Masked(torch.view_as_real(input.value), input.visible[..., None])


@rule(torch.view_as_complex)
def view_as_complex(input: Float[Masked, "*S 2"]) -> Complex[Masked, "*S"]:
    """A number is visible if both its parts are."""
    return Masked(torch.view_as_complex(input.value), narrow(input.visible.all(-1)))
