"""Slow twins: section 3 of the paper and Algorithm 1, one cell and one window at a time, in float64.

They are written from the formulas, not from the engine. Images are numpy arrays (C, *S), masks bool (*S),
True = visible. `pads` marks the cells of explicit padding: neither hidden nor visible.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Cell = tuple[int, ...]


def cells(shape: Sequence[int]) -> Iterator[Cell]:
    return itertools.product(*map(range, shape))


def pad_k(
    x: np.ndarray, visible: np.ndarray, rings: Sequence[int], eps: float = 0.0, pads: np.ndarray | None = None
) -> np.ndarray:
    """Algorithm 1: `rings` times, each hidden cell next to known ones becomes their mean.

    `rings` is a number per axis; a ring's neighbourhood extends along the axes that have that many.
    """
    return pad_and_know(x, visible, rings, eps, pads)[0]


def pad_and_know(
    x: np.ndarray, visible: np.ndarray, rings: Sequence[int], eps: float = 0.0, pads: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1's x' and m: what is filled, and where."""
    pads = np.zeros_like(visible) if pads is None else pads
    filled, known = np.where(visible, x, 0.0), visible & ~pads
    for ring in range(max(rings)):
        box = [range(-1, 2) if ring < r else range(1) for r in rings]
        before, filled, known_before, known = filled, filled.copy(), known, known.copy()
        for cell in cells(visible.shape):
            around = [c for c in _around(cell, box, visible.shape) if known_before[c]]
            if around and not known_before[cell] and not pads[cell]:
                filled[(slice(None), *cell)] = sum(before[(slice(None), *c)] for c in around) / (
                    len(around) + eps
                )
                known[cell] = True
    return filled, known | pads


def _around(cell: Cell, box: Sequence[range], shape: Sequence[int]) -> Iterator[Cell]:
    for step in itertools.product(*box):
        other = tuple(c + s for c, s in zip(cell, step, strict=True))
        if all(0 <= o < n for o, n in zip(other, shape, strict=True)):
            yield other


@dataclass(frozen=True)
class Windows:
    """Where the windows of an operation lie; `ceil` lets the last ones reach past the padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    @property
    def rings(self) -> tuple[int, ...]:
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    def count(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The number of windows per axis."""
        counts = []
        for n, r, s, b, a in zip(shape, self.rings, self.stride, self.before, self.after, strict=True):
            span = (n + b + a - r - 1) / s
            windows = (math.ceil(span) if self.ceil else math.floor(span)) + 1
            counts.append(windows - 1 if self.ceil and (windows - 1) * s >= n + b else windows)
        return tuple(counts)

    def read(self, start: Cell, shape: Sequence[int]) -> Iterator[tuple[Cell, Cell | None]]:
        """Each tap of a window, and the cell it reads (None: padding)."""
        for tap in cells(self.kernel):
            parts = zip(start, self.stride, self.before, tap, self.dilation, strict=True)
            cell = tuple(o * s - b + t * d for o, s, b, t, d in parts)
            inside = all(0 <= c < n for c, n in zip(cell, shape, strict=True))
            yield tap, cell if inside else None


def slide(
    x: np.ndarray,
    visible: np.ndarray,
    windows: Windows,
    function: Callable,
    growth: str = "any",
    pads: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`function(window, place)` everywhere, a window being [(tap, cell, value (C,))], and MaxPool_k(m).

    The value is None in implicit padding. A window in padding alone has nothing hidden: it is visible.
    """
    pads = np.zeros_like(visible) if pads is None else pads
    if growth == "keep":
        growth = "any" if any(s > 1 for s in windows.stride) else "center"
    counts = windows.count(visible.shape)
    out, shown = {}, np.zeros(counts, dtype=bool)
    for place in cells(counts):
        read = list(windows.read(place, visible.shape))
        window = [(tap, cell, None if cell is None else x[(slice(None), *cell)]) for tap, cell in read]
        out[place] = function(window, place)
        inside = [(tap, cell) for tap, cell in read if cell is not None and not pads[cell]]
        shown[place] = not inside or GROWTH[growth](
            windows.kernel, [(tap, bool(visible[c])) for tap, c in inside]
        )
    values = np.stack([out[place] for place in cells(counts)], -1)
    return values.reshape(-1, *counts), shown


def _any(kernel: Cell, seen: list[tuple[Cell, bool]]) -> bool:
    return any(v for _, v in seen)


def _half(kernel: Cell, seen: list[tuple[Cell, bool]]) -> bool:
    return _any(kernel, seen) and 2 * sum(v for _, v in seen) >= len(seen)


def _center(kernel: Cell, seen: list[tuple[Cell, bool]]) -> bool:
    """The middle tap, or any of the two middle ones per axis; in padding, any."""
    middle = [
        (tap, v)
        for tap, v in seen
        if all(t in ((k - 1) // 2, k // 2) for t, k in zip(tap, kernel, strict=True))
    ]
    return _any(kernel, middle or seen)


GROWTH = {"any": _any, "half": _half, "center": _center}


def convolve(weight: np.ndarray, bias: np.ndarray, groups: int) -> Callable:
    """The sum of a window, by output channel."""
    outs, ins = weight.shape[:2]

    def function(window: list, place: Cell) -> np.ndarray:
        out = bias.copy()
        for o in range(outs):
            first = o // (outs // groups) * ins
            for tap, _, value in window:
                if value is not None:
                    out[o] += weight[(o, slice(None), *tap)] @ value[first : first + ins]
        return out

    return function


def convolve_partially(
    weight: np.ndarray, bias: np.ndarray, groups: int, visible: np.ndarray, release: bool
) -> Callable:
    """Liu et al. 2018 on zeros: W x m * (cells / visible cells) + b, cells being the window's in the image.

    The released code counts all k^d taps as cells, and adds 1e-8 to the visible share.
    """
    plain = convolve(weight, np.zeros_like(bias), groups)

    def function(window: list, place: Cell) -> np.ndarray:
        inside = [cell for _, cell, _ in window if cell is not None]
        seen = sum(bool(visible[cell]) for cell in inside)
        share = seen / len(window) + 1e-8 if release else max(seen, 1) / max(len(inside), 1)
        return plain(window, place) / share + bias

    return function


def spread(
    x: np.ndarray,
    visible: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: Cell,
    padding: Cell,
    extra: Cell,
    dilation: Cell,
    groups: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A transposed convolution: each filled cell adds its kernel to the output cells around it.

    Visible is what any visible cell adds to, and what no cell at all adds to.
    """
    kernel, ins = weight.shape[2:], weight.shape[0]
    rings = [math.ceil((k - 1) * d / s) for k, d, s in zip(kernel, dilation, stride, strict=True)]
    filled = pad_k(x, visible, rings)
    sizes = zip(visible.shape, stride, padding, extra, kernel, dilation, strict=True)
    shape = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, e, k, d in sizes)
    per = weight.shape[1]
    out = np.zeros((per * groups, *shape)) + bias.reshape(-1, *[1] * len(shape))
    adds, hides = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    for cell, tap in itertools.product(cells(visible.shape), cells(kernel)):
        parts = zip(cell, stride, padding, tap, dilation, strict=True)
        place = tuple(c * s - p + t * d for c, s, p, t, d in parts)
        if not all(0 <= c < n for c, n in zip(place, shape, strict=True)):
            continue
        for i in range(ins):
            group = i // (ins // groups)
            out[(slice(group * per, (group + 1) * per), *place)] += (
                weight[(i, slice(None), *tap)] * filled[(i, *cell)]
            )
        adds[place] |= visible[cell]
        hides[place] = False
    return out, adds | hides


def average(include_pad: bool, divisor: int | None, shape: Sequence[int], windows: Windows) -> Callable:
    """The mean of a window over its cells in the image, or in the padded image."""
    bounds = [(-b, n + a) for n, b, a in zip(shape, windows.before, windows.after, strict=True)]

    def function(window: list, place: Cell) -> np.ndarray:
        values = [value for _, _, value in window if value is not None]
        starts = [p * s - b for p, s, b in zip(place, windows.stride, windows.before, strict=True)]
        spans = zip(starts, windows.kernel, bounds, strict=True)
        padded = math.prod(min(at + k, high) - max(at, low) for at, k, (low, high) in spans)
        return sum(values) / (divisor or (padded if include_pad else len(values)))

    return function


def masked_mean(x: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """h_m(x, m) = h(x * m) / h(m), 0 where nothing is visible: (C, *S) to (C,)."""
    total = [x[(slice(None), *cell)] for cell in cells(visible.shape) if visible[cell]]
    return sum(total) / len(total) if total else np.zeros(len(x))
