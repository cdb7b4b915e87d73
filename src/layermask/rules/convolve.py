"""Convolutions: fill the hidden cells that a window reads, convolve, grow the mask (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import any_over, cached, intersection
from layermask.core.masked import Masked, plain_of, settings_of, zero_hidden
from layermask.core.rule_table import built_in as rule
from layermask.core.rule_table import name_of
from layermask.core.window import Window, count, grow, windowed
from layermask.errors import NoMaskRule
from layermask.padding.neighbor import neighbor

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped

Sizes = int | Sequence[int]


def per_axis(sizes: Sizes, n: int) -> tuple[int, ...]:
    """One size per spatial axis, as torch reads a single number."""
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes * n if len(sizes) == 1 else sizes


def conv_window(weight: Tensor, stride: Sizes, padding: Sizes | str, dilation: Sizes) -> Window:
    """The geometry of a convolution, "same" and "valid" padding included."""
    n = weight.ndim - 2
    kernel, dilation = tuple(weight.shape[2:]), per_axis(dilation, n)
    if padding == "same":  # torch puts the odd cell after
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        before = after = per_axis(0 if isinstance(padding, str) else padding, n)
    return Window(kernel, per_axis(stride, n), before, after, dilation)


def filled(x: Shaped[Masked, "N C *S"], window: Window) -> Shaped[Tensor, "N C *S"]:
    """The value as a window op is to read it, by the fill in force."""
    if window.pointlike and x.visible.shape[1] == 1:
        return x.value
    return neighbor(x, window.reach) if settings_of(x).fill == "neighbor" else zero_hidden(x)


def _channels(
    forward_pass: ForwardPass | None, visible: Bool[Tensor, "N C *S"], groups: int, out_channels: int
) -> Bool[Tensor, "N D *S"]:
    """A mask that varies along channels, as seen by each output channel: anything visible in its group."""
    if visible.shape[1] == 1:
        return visible
    if groups == 1:
        return any_over(forward_pass, visible, (1,), keepdim=True)
    grouped = visible.reshape(visible.shape[0], groups, -1, *visible.shape[2:]).any(2)
    return grouped.repeat_interleave(out_channels // groups, dim=1)


def _convolution(conv: Callable) -> Callable:
    def convolution(
        input: Shaped[Masked | Tensor, "N C *S"],
        weight: Shaped[Masked | Tensor, "D G *K"],
        bias: Shaped[Masked | Tensor, " D"] | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        *,
        growth: str | None = None,
    ) -> Shaped[Masked | Tensor, "N D *T"]:
        if not isinstance(input, Masked):  # only the kernel is masked: its hidden entries read nothing
            return _with_kernel_mask(
                conv(input, plain_of(weight), plain_of(bias), stride, padding, dilation, groups), weight
            )
        x = input
        window = conv_window(plain_of(weight), stride, padding, dilation)
        value = filled(x, window)
        out = conv(value, plain_of(weight), plain_of(bias), stride, padding, dilation, groups)
        if settings_of(x).fill == "renormalize":
            out = _renormalized(out, x, window, plain_of(bias), groups)
        visible, is_padding = grow(x, window, growth)
        visible = _channels(x.forward_pass, visible, groups, out.shape[1])
        if is_padding is not None:  # padding, if all that is read is
            is_padding = ~_channels(x.forward_pass, ~is_padding, groups, out.shape[1])
        return _with_kernel_mask(zero_if_empty(x, Masked(out, visible, is_padding=is_padding)), weight)

    return convolution


def zero_if_empty(x: Masked, out: Masked) -> Masked:
    """A map that became one cell has no positions left: it is 0 where nothing was visible, as pools are."""
    if math.prod(x.value.shape[2:]) > 1 and math.prod(out.value.shape[2:]) == 1:
        out.value = zero_hidden(out)
    return out


def _with_kernel_mask(out: Masked | Tensor, weight: Masked | Tensor) -> Masked | Tensor:
    """Output channels whose whole kernel is hidden are hidden."""
    if not isinstance(weight, Masked):
        return out
    seen = any_over(weight.forward_pass, weight.visible, range(1, weight.visible.ndim), keepdim=True)
    ndim = out.value.ndim if isinstance(out, Masked) else out.ndim
    seen = seen.reshape([1] * (ndim - weight.visible.ndim + 1) + [-1] + [1] * (weight.visible.ndim - 2))
    if isinstance(out, Masked):
        return Masked(
            out.value, intersection(weight.forward_pass, out.visible, seen), is_padding=out.is_padding
        )
    return Masked(out, seen)


def _renormalized(out: Tensor, x: Masked, window: Window, bias: Tensor | None, groups: int) -> Tensor:
    """Partial convolution: the sum over what is visible, rescaled by the window's visible share.

    The released code counts padding as hidden and adds 1e-8 to the share; here the share is of the cells
    inside the image, so that an all-visible window is the plain convolution.
    """
    release = settings_of(x).compat == "release"
    share = cached(
        x.forward_pass,
        "share",
        (x.visible,),
        (window, groups, release, out.dtype),
        lambda: _share(x, window, release),
    )
    share = share.to(out.dtype)
    shift = 0 if bias is None else bias.reshape(-1, *[1] * (out.ndim - 2))
    rescaled = (out - shift) / share + shift
    return torch.where(share == 1, out, rescaled)


def _share(x: Masked, window: Window, release: bool) -> Tensor:
    visible = x.visible.any(1, keepdim=True).expand(-1, -1, *x.value.shape[2:])
    seen = count(visible, window).double()
    if release:
        return seen / math.prod(window.kernel) + 1e-8
    return seen.clamp(min=1) / count(torch.ones_like(visible[:1]), window).clamp(min=1)


def _transposed(conv: Callable) -> Callable:
    def convolution(
        input: Shaped[Masked, "N C *S"],
        weight: Shaped[Masked | Tensor, "C G *K"],
        bias: Shaped[Masked | Tensor, " D"] | None = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Shaped[Masked, "N D *T"]:
        geometry = (stride, padding, output_padding, groups, dilation)
        if not isinstance(input, Masked):
            why = "Its input must be the masked argument: a masked kernel or bias has no meaning here."
            raise NoMaskRule(name_of(conv), why=why)
        x = input
        out = conv(
            _read_by_transposed(x, weight, stride, dilation), plain_of(weight), plain_of(bias), *geometry
        )
        visible, is_padding = _scatter(conv, x, weight, geometry, out.shape[1])
        return zero_if_empty(x, Masked(out, visible, is_padding=is_padding))

    return convolution


def _read_by_transposed(x: Masked, weight: Masked | Tensor, stride: Sizes, dilation: Sizes) -> Tensor:
    """An output cell reads input cells up to ceil((k-1) d / s) apart."""
    n = weight.ndim - 2
    sizes = zip(weight.shape[2:], per_axis(stride, n), per_axis(dilation, n), strict=True)
    reach = tuple(-(-(k - 1) * d // s) if k > 1 else 0 for k, s, d in sizes)
    return neighbor(x, reach) if settings_of(x).fill == "neighbor" and any(reach) else zero_hidden(x)


def _scatter(conv: Callable, x: Masked, weight: Masked | Tensor, geometry: tuple, out_channels: int):
    """Visible is what a visible input cell contributes to. What only padding does, or nothing, is padding."""
    stride, padding, output_padding, groups, dilation = geometry
    sizes = zip(
        weight.shape[2:], per_axis(stride, weight.ndim - 2), per_axis(dilation, weight.ndim - 2), strict=True
    )
    gaps = any(per_axis(output_padding, weight.ndim - 2)) or any(d > 1 or s > k for k, s, d in sizes)
    if not gaps and x.is_padding is None and all(n == 1 for n in x.visible.shape[2:]):
        return _channels(x.forward_pass, x.visible, groups, out_channels), None
    image = torch.ones_like(x.visible[:1, :1]) if x.is_padding is None else ~x.is_padding
    seen, image = (
        _channels(x.forward_pass, mask, groups, groups).expand(-1, -1, *x.value.shape[2:])
        for mask in (x.visible & image, image)
    )
    tap = torch.ones(
        1, 1, *weight.shape[2:], device=seen.device, dtype=torch.float64
    )  # autocast leaves it alone

    def spread(mask: Tensor) -> Tensor:
        flat = mask.reshape(-1, 1, *mask.shape[2:]).double()
        out = conv(flat, tap, None, stride, padding, output_padding, 1, dilation)
        return out.reshape(*mask.shape[:2], *out.shape[2:])

    contributors, got = spread(image), spread(seen)
    half = settings_of(x).growth == "half"
    visible = (2 * got >= contributors) & (got > 0) if half else got > 0
    missed = contributors == 0
    visible, missed = (
        m if m.shape[1] == 1 else m.repeat_interleave(out_channels // m.shape[1], dim=1)
        for m in (visible | missed, missed)
    )
    return visible, missed


for n, conv, transposed in (
    (1, F.conv1d, F.conv_transpose1d),
    (2, F.conv2d, F.conv_transpose2d),
    (3, F.conv3d, F.conv_transpose3d),
):
    rule(conv)(windowed(n, _convolution(conv)))
    rule(transposed)(windowed(n, _transposed(transposed)))
