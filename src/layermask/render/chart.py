"""Charts as inline SVG, whose colours the page's style sheet sets: light, dark and printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDE, TALL = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 40, 24, 12, 44
_DASHES = ("", "7 3", "2 3", "10 3 2 3", "5 2", "1 2 6 2")
_STEPS = (1, 2, 2.5, 5, 10)  # fifths of which are short


@dataclass(frozen=True)
class Line:
    """Values and their bounds at the shares hidden; `style` is the number of its colour and dashes."""

    style: int
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class _Frame:
    """From shares (0 to 1) and values (0 to `ceiling`) to places in the drawing."""

    ceiling: float

    def x(self, share: float) -> float:
        return LEFT + share * (WIDE - LEFT - RIGHT)

    def y(self, value: float) -> float:
        height = max(0.0, min(value, self.ceiling)) / self.ceiling
        return TALL - BOTTOM - height * (TALL - TOP - BOTTOM)

    def points(self, shares: Sequence[float], values: Sequence[float]) -> str:
        pairs = zip(shares, values, strict=True)
        return " ".join(f"{self.x(share):.1f},{self.y(value):.1f}" for share, value in pairs)


def line_chart(title: str, shares: Sequence[float], lines: Mapping[str, Line], top: float | None) -> str:
    """Draw values over the share hidden, each with its interval as a band. `top` None: the largest value."""
    frame = _Frame(top or _round_up(max(max(line.high) for line in lines.values())))
    parts = [_grid(frame)]
    for line in lines.values():
        around = frame.points([*shares, *reversed(shares)], [*line.high, *reversed(line.low)])
        parts.append(f'<polygon class="band s{line.style}" points="{around}"/>')
    for line in lines.values():
        parts.append(f'<polyline {_stroke(line.style)} points="{frame.points(shares, line.values)}"/>')
    told = "; ".join(_told(name, shares, line) for name, line in lines.items())
    label = f"{title} over the share of the segments hidden. {told}."
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDE} {TALL}" '
        f'width="{WIDE}" height="{TALL}">{"".join(parts)}</svg>'
    )


def _told(name: str, shares: Sequence[float], line: Line) -> str:
    middle = len(shares) // 2
    places = (0, middle, len(shares) - 1)
    return f"{name}: " + ", ".join(f"{line.values[k]:.2f} at {100 * shares[k]:.0f} %" for k in places)


def _grid(frame: _Frame) -> str:
    left, right = f"{frame.x(0):.1f}", f"{frame.x(1):.1f}"
    parts = []
    for tick in range(6):
        share, value = tick / 5, frame.ceiling * tick / 5
        x, y = frame.x(share), frame.y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{value:.3g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{TALL - BOTTOM + 18}" class="mid">{100 * share:.0f} %</text>')
    middle = (LEFT + WIDE - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{TALL - 6}" class="mid faint">share of the segments hidden</text>')
    return "".join(parts)


def swatch(style: int) -> str:
    """Draw a piece of the line of a style, for a legend."""
    return (
        '<svg class="swatch" width="34" height="10" viewBox="0 0 34 10" aria-hidden="true">'
        f'<polyline {_stroke(style)} points="1,5 33,5"/></svg>'
    )


def interval_bar(value: float, low: float, high: float, scale: tuple[float, float]) -> str:
    """Draw an interval and its middle on a scale that has 0 marked; the numbers stand beside it."""
    wide, middle = 200, 11
    lowest, highest = min(0.0, scale[0]), max(0.0, scale[1])
    span = max(highest - lowest, 1e-6)

    def x(value: float) -> str:
        return f"{8 + (value - lowest) / span * (wide - 16):.1f}"

    kind = "bar unsure" if low <= 0 <= high else "bar"
    return (
        f'<svg class="interval" viewBox="0 0 {wide} 22" aria-hidden="true">'
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="22"/>'
        f'<line class="{kind}" x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="{kind}" cx="{x(value)}" cy="{middle}" r="4.5"/></svg>'
    )


def _stroke(style: int) -> str:
    dashes = _DASHES[style % len(_DASHES)]
    return f'class="curve s{style}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _round_up(value: float) -> float:
    """Return an end for a scale: a short number at or above `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _STEPS if step * power >= value - 1e-12)
