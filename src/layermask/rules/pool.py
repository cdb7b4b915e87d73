"""Pooling windows. Max pools ignore hidden cells, average pools read filled ones, adaptive ones skip them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import functions_of_name
from layermask.core.call_site import module_path, user_line
from layermask.core.mask import any_over, cached
from layermask.core.masked import Masked, settings_of, zero_hidden
from layermask.core.ownership import exclusively_owned
from layermask.core.rule_table import built_in as rule
from layermask.core.tracing import is_traced
from layermask.core.window import Window, grow, windowed
from layermask.errors import NoMaskRule
from layermask.padding.hide import hide_
from layermask.padding.neighbor import neighbor
from layermask.rules.convolve import Sizes, filled, per_axis, zero_if_empty
from layermask.rules.reduce import epsilon, hidden_last, visible_share
from layermask.rules.scatter import plain_only

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped


def pool_window(
    x: Masked, n: int, kernel: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil: bool
) -> Window:
    """The geometry of a pool; `ceil_mode` is padding after the image, as far as its last window reaches."""
    kernel, padding, dilation = per_axis(kernel, n), per_axis(padding, n), per_axis(dilation, n)
    stride = kernel if stride is None or stride == [] or stride == () else per_axis(stride, n)
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
        raise RuntimeError(
            f"a pool of kernel_size {kernel}, stride {stride}, padding {padding} and dilation {dilation}: "
            "padding must be 0 or more, the others 1 or more."
        )
    after = list(padding)
    for axis in range(n) if ceil else ():
        size, reach = x.shape[axis - n], (kernel[axis] - 1) * dilation[axis]
        windows = -(-(size + 2 * padding[axis] - reach - 1) // stride[axis]) + 1
        # torch drops a window that starts in the padding after the image
        windows -= (windows - 1) * stride[axis] >= size + padding[axis]
        after[axis] = (windows - 1) * stride[axis] + reach + 1 - size - padding[axis]
    return Window(kernel, stride, padding, tuple(after), dilation)


def _max_pool(n: int, pool: Callable) -> Callable:
    def max_pool(
        input: Shaped[Masked, "N C *S"],
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Shaped[Masked, "N C *T"] | tuple[Shaped[Masked, "N C *T"], Int[Tensor, "N C *T"]]:
        window = pool_window(input, n, kernel_size, stride, padding, dilation, ceil_mode)
        visible, is_padding = grow(input, window)
        value, restore = _below_maximum(input, window)
        out = pool(value, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        restore()
        out, indices = out if return_indices else (out, None)
        if indices is not None:
            places = pool(_shown_cells(input), kernel_size, stride, padding, dilation, ceil_mode, True)[1]
            indices = _of_visible(input, out, indices, places)
        # in place: the pool's backward needs its indices only
        masked = Masked(hide_(out, visible, 0.0), visible, is_padding=is_padding)
        return (masked, indices) if return_indices else masked  # type: ignore[return-value]  # indices are there

    return max_pool


def _below_maximum(x: Masked, window: Window) -> tuple[Tensor, Callable]:
    """The value with hidden cells as a max pool is to read them, and what to call when it has."""
    settings = settings_of(x)
    how = settings.pool or _POOL_OF[settings.compat]
    writes = x.value.is_floating_point() and not is_traced(x.value)
    if how == "nothing" and writes and exclusively_owned(x):
        return hide_(x.value, x.visible, -math.inf), lambda: hide_(x.value, x.visible, 0.0)  # finite again
    if how == "neighbor":
        return neighbor(x, window.reach), _nothing
    return zero_hidden(x) if how == "zero" else hidden_last(x, -math.inf), _nothing


def _nothing() -> None:
    pass


_POOL_OF: dict[str | None, str] = {None: "nothing", "paper": "neighbor", "release": "zero"}


def _avg_pool(n: int, pool: Callable) -> Callable:
    def avg_pool(
        input: Shaped[Masked, "N C *S"],
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Shaped[Masked, "N C *T"]:
        window = pool_window(input, n, kernel_size, stride, padding, 1, ceil_mode)
        visible, is_padding = grow(input, window)
        options = (
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            *(() if n == 1 else (divisor_override,)),
        )
        if _covers_map(input, window) and divisor_override is None:
            share = visible_share(input, range(2, n + 2), True, input.value.dtype)
            mean = pool(zero_hidden(input), *options) / (share + epsilon(input))
            return zero_if_empty(input, Masked(mean, visible, is_padding=is_padding))
        release = settings_of(input).compat == "release"
        value = zero_hidden(input) if release else filled(input, window)
        return zero_if_empty(input, Masked(pool(value, *options), visible, is_padding=is_padding))

    return avg_pool


def _covers_map(x: Masked, window: Window) -> bool:
    """One window over all positions is a global pool by another name."""
    return window.kernel == tuple(x.value.shape[2:]) and not any(window.before + window.after)


def bins(
    x: Shaped[Masked, "N C *S"], n: int, output_size: Any
) -> tuple[Bool[Tensor, "#N #C *T"], Bool[Tensor, "#N #C *T"] | None]:
    """The mask and padding of the bins of an adaptive pool; size 1 where nothing varies."""
    wanted = _wanted(x, n, output_size)

    def any_in(mask: Tensor) -> Tensor:
        return ADAPTIVE_MAX[n](mask.to(torch.float32), wanted) > 0

    if x.is_padding is None:
        return cached(x.forward_pass, "bins", (x.visible,), wanted, lambda: any_in(x.visible)), None
    missed = ~any_in(~x.is_padding)
    return any_in(x.visible & ~x.is_padding) | missed, missed


def _wanted(x: Masked, n: int, output_size: Any) -> tuple[int, ...]:
    """Bins per axis of the mask."""
    if all(m == 1 for m in x.visible.shape[2:]):
        return (1,) * n
    sizes = output_size if isinstance(output_size, Sequence) else [output_size] * n
    return tuple(size if s is None else s for s, size in zip(sizes, x.value.shape[2:], strict=True))


def _adaptive_avg(n: int, pool: Callable) -> Callable:
    def adaptive_avg_pool(input: Shaped[Masked, "N C *S"], output_size: Any) -> Shaped[Masked, "N C *T"]:
        """The mean of the visible cells of each bin; 0 where a bin has none (section 3.2, h_m)."""
        mean = pool(zero_hidden(input), output_size)
        wanted = _wanted(input, n, output_size)
        key = (wanted, mean.dtype)
        share = cached(
            input.forward_pass, "bin share", (input.visible,), key, lambda: _bin_share(input, wanted, pool)
        )
        visible, is_padding = bins(input, n, output_size)
        mean = mean / (share.to(mean.dtype) + epsilon(input))
        return zero_if_empty(input, Masked(mean, visible, is_padding=is_padding))

    return adaptive_avg_pool


def _bin_share(x: Masked, wanted: tuple[int, ...], pool: Callable) -> Tensor:
    """The visible share of every bin: exactly 1 where all is visible, and where nothing is."""
    wide = torch.promote_types(x.value.dtype, torch.float32)
    seen = pool(x.visible.to(wide), wanted)
    hidden = ADAPTIVE_MAX[len(wanted)]((~x.visible).to(wide), wanted)
    return torch.where((hidden == 0) | (seen == 0), 1.0, seen)


def _adaptive_max(n: int, pool: Callable) -> Callable:
    def adaptive_max_pool(
        input: Shaped[Masked, "N C *S"], output_size: Any, return_indices: bool = False
    ) -> Shaped[Masked, "N C *T"] | tuple[Shaped[Masked, "N C *T"], Int[Tensor, "N C *T"]]:
        visible, is_padding = bins(input, n, output_size)
        out, indices = pool(hidden_last(input, -math.inf), output_size, return_indices=True)
        masked = Masked(torch.where(visible, out, 0), visible, is_padding=is_padding)
        if not return_indices:
            return masked
        places = pool(_shown_cells(input), output_size, return_indices=True)[1]
        return masked, _of_visible(input, out, indices, places)

    return adaptive_max_pool


def _shown_cells(x: Masked) -> Tensor:
    """1 at the visible cells of a map, whose maximum in a window is its first visible cell."""
    return x.visible.expand(x.value.shape).to(torch.float32)


def _of_visible(x: Masked, out: Tensor, indices: Tensor, shown: Tensor) -> Tensor:
    """The places of maxima, `shown` where no visible cell is larger than what stands for hidden ones."""
    least = -math.inf if x.value.is_floating_point() else torch.iinfo(x.value.dtype).min
    return torch.where(out == least, shown, indices)


def _lp_pool(n: int, pool: Callable) -> Callable:
    def lp_pool(
        input: Shaped[Masked, "N C *S"],
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
    ) -> Shaped[Masked, "N C *T"]:
        window = pool_window(input, n, kernel_size, stride, 0, 1, ceil_mode)
        visible, is_padding = grow(input, window)
        out = pool(filled(input, window), norm_type, kernel_size, stride, ceil_mode)
        return zero_if_empty(input, Masked(out, visible, is_padding=is_padding))

    return lp_pool


def _max_unpool(n: int, function: Callable) -> Callable:
    def max_unpool(
        input: Masked,
        indices: Any,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        output_size: Sequence[int] | None = None,
    ) -> Masked:
        """Hidden maxima are not written. What no visible window reaches is hidden."""
        plain_only(function, indices)
        at = (kernel_size, stride, padding, output_size)
        size = function(torch.zeros_like(input.value), indices, *at).shape[-n:]
        cells, nowhere = math.prod(size), ~input.visible.expand(input.value.shape)
        places = torch.where(nowhere, cells, indices).flatten(-n)  # one cell more takes them
        out = input.value.new_zeros(*input.shape[:-n], cells + 1)
        out = out.scatter(-1, places, input.value.flatten(-n))[..., :-1].unflatten(-1, size)
        return Masked(out, _unpooled(input, n, at, size))

    return max_unpool


def _unpooled(x: Masked, n: int, at: tuple, size: Sequence[int]) -> Tensor:
    """The mask of what windows are spread over; cells within none show if anything of the map does."""
    if all(m == 1 for m in x.visible.shape[-n:]):
        return x.visible
    visible = x.visible.expand(*x.visible.shape[:-n], *x.value.shape[-n:])
    kernel, padding = per_axis(at[0], n), per_axis(at[2], n)
    stride = kernel if at[1] is None else per_axis(at[1], n)
    spread = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[n]
    ones = torch.ones(1, 1, *kernel, device=visible.device)

    def reached(mask: Tensor) -> Tensor:
        found = spread(mask.float().reshape(-1, 1, *mask.shape[-n:]), ones, None, stride) > 0
        crops: list[int] = []
        for d in reversed(range(n)):
            crops += [-padding[d], size[d] + padding[d] - found.shape[d - n]]
        return F.pad(found, crops).unflatten(0, mask.shape[:-n]).squeeze(-n - 1)

    constant = ~reached(torch.ones_like(visible))
    return reached(visible) | (constant & any_over(x.forward_pass, x.visible, range(-n, 0), True))


def _unpooled_without_windows(input: Any, indices: Any, output_size: Any, *windows: Any) -> NoReturn:
    """What the functions above call, and exported programs, says nothing of windows."""
    raise NoMaskRule(
        "max_unpool", module_path(), user_line(), _NO_WINDOWS, "Call F.max_unpool2d or its like."
    )


_NO_WINDOWS = "Which cells its windows reach is not given, or its indices are masked."


def _with_indices(pool: Callable) -> Callable:
    def rule(*args: Any, return_indices: bool = True, **kwargs: Any) -> Any:
        """Indices come whatever is asked for, as in torch."""
        return pool(*args, return_indices=True, **kwargs)

    return rule


ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_POOLS = {
    1: (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d, F.lp_pool1d),
    2: (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.lp_pool2d),
    3: (F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.lp_pool3d),
}
for n, (maximum, average, adaptive, lp) in _POOLS.items():
    largest = windowed(n, _max_pool(n, maximum))
    rule(maximum, getattr(torch, f"max_pool{n}d"))(largest)
    rule(getattr(F, f"max_pool{n}d_with_indices"))(_with_indices(largest))
    rule(average)(windowed(n, _avg_pool(n, average)))
    rule(adaptive)(windowed(n, _adaptive_avg(n, adaptive)))
    bin_maximum = windowed(n, _adaptive_max(n, ADAPTIVE_MAX[n]))
    rule(ADAPTIVE_MAX[n])(bin_maximum)
    rule(getattr(F, f"adaptive_max_pool{n}d_with_indices"))(_with_indices(bin_maximum))
    rule(lp)(windowed(n, _lp_pool(n, lp)))
    unpool = getattr(F, f"max_unpool{n}d")
    rule(unpool)(_max_unpool(n, unpool))
    for function in set(functions_of_name(unpool.__name__)) - {unpool}:
        rule(function)(_unpooled_without_windows)
