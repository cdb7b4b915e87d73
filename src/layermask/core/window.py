"""Windows that slide over positions: their geometry, and how a mask grows through them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import _contains, cached
from layermask.core.masked import Masked, settings_of
from layermask.core.settings import GROWTHS
from layermask.io import demo
from layermask.io.notebook import masked_map

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Shaped


@dataclass(frozen=True)
class Window:
    """The geometry of a window op over d axes. `before` and `after` are the cells of implicit padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How far, per axis, a cell can lie from a visible cell of the same window."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def pointlike(self) -> bool:
        """One cell in, the same cell out."""
        one = (1,) * len(self.kernel)
        return self.kernel == self.stride == one and not any(self.before + self.after)

    @property
    def centered(self) -> bool:
        """Every output cell's window holds the input cell of the same place."""
        unit = all(s == 1 for s in self.stride)
        return (
            unit
            and self.before == self.after
            and all(
                2 * b == r and k % 2 for b, r, k in zip(self.before, self.reach, self.kernel, strict=True)
            )
        )

    @property
    def may_miss_image(self) -> bool:
        """Some window could lie in padding alone."""
        return any(
            max(b, a) >= k if d == 1 else max(b, a) > 0
            for b, a, k, d in zip(self.before, self.after, self.kernel, self.dilation, strict=True)
        )

    def has_output(self, size: Sequence[int]) -> bool:
        """Whether at least one window fits into a map of this size and its padding."""
        sides = zip(size, self.before, self.after, self.reach, strict=True)
        return all(n + before + after > reach for n, before, after, reach in sides)


def on_grid(x: Masked, n: int) -> Shaped[Masked, "N C *S"]:
    """The input as window ops over n axes take it: (N, C, *S), the mask full along S if it varies there."""
    masks = (x.visible, x.is_padding)
    if x.value.ndim == n + 1:
        masks = tuple(m if m is None else m[None] for m in masks)
    value = x.value[None] if x.value.ndim == n + 1 else x.value
    spatial = tuple(value.shape[2:])
    visible, is_padding = (m if m is None else _full(x.forward_pass, m, spatial) for m in masks)
    if value is x.value and visible is x.visible:
        return x
    out = Masked(value, visible, is_padding=is_padding)  # type: ignore[arg-type]  # visible is not None
    out.forward_pass, out.aliased, out.cut = x.forward_pass, x.aliased, x.cut
    return out


def _full(forward_pass: ForwardPass | None, mask: Tensor, spatial: tuple[int, ...]) -> Tensor:
    if mask.shape[2:] == spatial or all(m == 1 for m in mask.shape[2:]):
        return mask
    return cached(forward_pass, "full", (mask,), spatial, lambda: mask.expand(*mask.shape[:2], *spatial))


def windowed(n: int, rule: Callable) -> Callable:
    """The rule with its input brought onto the grid; an unbatched input gives an unbatched output."""

    @functools.wraps(rule)
    def apply(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Masked):
            return rule(input, *args, **kwargs)
        x = on_grid(input, n)
        out = rule(x, *args, **kwargs)
        if x.value.ndim == input.value.ndim:
            return out
        return tuple(part[0] for part in out) if isinstance(out, tuple) else out[0]

    return apply


def count(visible: Bool[Tensor, "N C *S"], window: Window) -> Int32[Tensor, "N C *T"]:
    """How many cells of each window are visible: (N, C, *S) bool to (N, C, *S') int32, so exactly."""
    return window_sum(visible.to(torch.int32), window)


def window_sum(x: Shaped[Tensor, "N C *S"], window: Window) -> Shaped[Tensor, "N C *T"]:
    """The sum over each window, (N, C, *S) to (N, C, *S'): shifted slices added up, axis by axis.

    Of a bool mask: whether anything in the window is True.
    """
    n = len(window.kernel)
    pads = [p for axis in reversed(range(n)) for p in (window.before[axis], window.after[axis])]
    out = F.pad(x, pads) if any(pads) else x
    for axis in range(n):
        out = _sum_along(out, axis - n, window.kernel[axis], window.stride[axis], window.dilation[axis])
    return out


def neighborhood(reach: tuple[int, ...], ring: int) -> Window:
    """The 3-wide window along the axes that the ring (counted from 1) still extends on."""
    on = tuple(int(r >= ring) for r in reach)
    return Window(tuple(1 + 2 * o for o in on), (1,) * len(on), on, on, (1,) * len(on))


def box_sum(value: Shaped[Tensor, "N C *S"], box: Window) -> Shaped[Tensor, "N C *S"]:
    """The sum over each cell's neighbourhood: shifted slices for few channels, else a depthwise conv."""
    channels = value.shape[1]
    if channels <= MOST_SLICED_CHANNELS:
        return window_sum(value, box)
    conv: Callable = (F.conv1d, F.conv2d, F.conv3d)[len(box.kernel) - 1]
    ones = value.new_ones((1, 1, *box.kernel)).expand(channels, 1, *box.kernel)
    with torch.autocast(value.device.type, enabled=False):
        return conv(value, ones, padding=box.before, groups=channels)


MOST_SLICED_CHANNELS = (
    8  # measured on CPU at 3 channels, 224 x 224: slices 3.7 ms, depthwise convolution 51 ms
)


def _sum_along(x: Tensor, dim: int, kernel: int, stride: int, dilation: int) -> Tensor:
    if kernel == stride == 1:
        return x
    last = (x.shape[dim] - (kernel - 1) * dilation - 1) // stride * stride + 1
    slices = [x.narrow(dim, k * dilation, last) for k in range(kernel)]
    if stride != 1:
        every = (..., slice(None, None, stride)) + (slice(None),) * (-dim - 1)
        slices = [part[every] for part in slices]
    out = slices[0]
    for part in slices[1:]:
        out = out | part if out.dtype is torch.bool else out + part
    return out


def _central(window: Window) -> Window:
    """The window of the central cell per axis, or of the two central cells where the kernel is even."""
    kernel = tuple(1 if k % 2 else 2 for k in window.kernel)
    skip = [(k - c) // 2 * d for k, c, d in zip(window.kernel, kernel, window.dilation, strict=True)]
    return Window(
        kernel,
        window.stride,
        tuple(b - s for b, s in zip(window.before, skip, strict=True)),
        tuple(a - s for a, s in zip(window.after, skip, strict=True)),
        window.dilation,
    )


def grow(
    x: Shaped[Masked, "N C *S"], window: Window, growth: str | None = None
) -> tuple[Bool[Tensor, "#N #C *T"], Bool[Tensor, "#N #C *T"] | None]:
    """The mask, and the padding if any, behind a window op (the paper's MaxPool_k(m), section 3.2).

    `x`: (N, C, *S), as `on_grid` gives it. Padding makes no window visible. A window that lies in padding
    alone hides nothing: it counts as visible, and as padding in turn.
    """
    forward_pass, visible, is_padding = x.forward_pass, x.visible, x.is_padding
    growth = growth or settings_of(x).growth
    if window.pointlike or visible.shape[2:] != x.shape[2:]:  # one cell in, one out; or all cells alike
        return visible, is_padding
    if growth == "keep":
        growth = "center" if max(window.stride) == 1 else "any"
    if growth == "center" and window.centered and is_padding is None:
        return visible, None
    masks = (visible,) if is_padding is None else (visible, is_padding)
    return cached(
        forward_pass,
        "grow",
        masks,
        (window, growth),
        lambda: _grow(forward_pass, visible, is_padding, window, growth),
    )


def _grow(
    forward_pass: ForwardPass | None, visible: Tensor, is_padding: Tensor | None, window: Window, growth: str
) -> tuple[Tensor, Tensor | None]:
    image = torch.ones_like(visible[:1, :1]) if is_padding is None else ~is_padding
    real = visible if is_padding is None else visible & image
    out = _kept(real, image, window, growth)
    if is_padding is None and not window.may_miss_image:
        return (_contains(forward_pass, out, visible) if window.centered and growth == "any" else out), None
    missed = ~window_sum(image, window)
    return out | missed, missed


def _kept(real: Tensor, image: Tensor, window: Window, growth: str) -> Tensor:
    if growth == "center":
        central = _central(window)
        off_image = ~window_sum(image, central)  # the centre lies in padding: any cell decides
        return window_sum(real, central) | (off_image & window_sum(real, window))
    if growth == "any":
        return window_sum(real, window)
    seen, cells = count(real, window), count(image, window)
    return (2 * seen >= cells if growth == "half" else seen == cells) & (seen > 0)


def _draw() -> None:
    """Draw the mask behind nine 3-wide windows, the sixth of stride 2, by each growth rule."""
    x, visible = demo.photograph(), demo.holes()
    sheet = {"before": masked_map(x[0], visible[0])}
    for growth in GROWTHS:
        shown = visible
        for stride in (1, 1, 1, 1, 1, 2, 1, 1, 1):
            window = Window((3, 3), (stride,) * 2, (1, 1), (1, 1), (1, 1))
            shown = grow(Masked(shown.float(), shown), window, growth)[0]
        sheet[growth] = masked_map(F.avg_pool2d(x, 2)[0], shown[0])
    demo.draw("window", sheet)


if __name__ == "__main__":
    _draw()
