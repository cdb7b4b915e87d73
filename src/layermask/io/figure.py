"""The parts of every figure: its size in inches, its title and notes, places for pictures and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from layermask.errors import import_optional
from layermask.io.answers import said

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

CELL, GAP, HEAD, MARGIN, NOTE = 2.5, 0.18, 0.52, 0.3, 0.18  # inches; NOTE: of a line at the foot
DPI = 150

COLORS = ("#00659d", "#d55e00", "#666666", "#9a6fb0", "#009e73", "#c5a300")  # told apart by the colour-blind
DASHES = ("-", (0, (4, 1.8)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (2.5, 1.2)), (0, (1, 1, 3, 1)))
INK, FAINT, RULE = "black", "0.35", "0.85"  # texts, what is less important, lines of a grid
VARIABLES = {"#000000": "text", "#595959": "faint", "#d9d9d9": "line"} | {
    color: f"s{number}" for number, color in enumerate(COLORS)
}
"""The variable of a page's style sheet that stands for a colour of a figure."""

Ranking = Sequence[tuple[str, float]]  # class names and answers, the most likely first
Place = tuple[float, float]
"""From the left and from below, in inches."""


def line_style(number: int) -> dict[str, Any]:
    """Return how the line of a removal looks, by the number of the removal; also for a legend."""
    dashes = DASHES[(number + number // len(COLORS)) % len(DASHES)]
    return {"color": COLORS[number % len(COLORS)], "linestyle": dashes, "linewidth": 1.6}


def png(figure: Figure) -> bytes:
    """Render a figure; without the date, so that the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "layermask"})
    return buffer.getvalue()


def svg(figure: Figure, key: str, kind: str = "chart", label: str = "") -> str:
    """Render a figure as an element of a page, whose style sheet sets its fonts and colours.

    Args:
        key: what its ids begin with; no two drawings of a page may share it.
        kind: the class of the element.
        label: what the figure shows, for readers who cannot see it; without one it is hidden from them,
            because the text beside it says the same.
    """
    buffer = StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "layermask"}
    with import_optional("matplotlib", "cli").rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    head, body = buffer.getvalue().split("</style>\n </defs>")
    shape = re.findall('viewBox="[^"]*"', head)[0]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'(id="|href="#|url\(#)', rf"\1{key}-", body).replace("xlink:", "")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    about = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return f'<svg class="{kind}" {about} {shape}>{" ".join(body.split())}'


def blank_figure(width: float, height: float) -> Figure:
    figure = import_optional("matplotlib.figure", "cli").Figure(
        figsize=(width, height), dpi=DPI, facecolor="white"
    )
    import_optional("matplotlib.backends.backend_agg", "cli").FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, title: str, notes: Sequence[str] = ()) -> Figure:
    """Return a figure with its title at the top and notes, a line each, at its foot."""
    figure = blank_figure(width, height)
    write(figure, (MARGIN, height - MARGIN), title, width - 2 * MARGIN, fontsize=12, weight="bold")
    write(figure, (MARGIN, 0.5 * MARGIN), "\n".join(notes), va="bottom", fontsize=8, color=FAINT)
    return figure


def place_axes(figure: Figure, corner: Place, width: float, height: float, sides: Sequence[str] = ()) -> Axes:
    """Place axes by their lower left corner, in inches: nothing can overlap by surprise.

    `sides`: those at which a line is drawn, "left" or "bottom".
    """
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((corner[0] / wide, corner[1] / tall, width / wide, height / tall))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(labelsize=8, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
    return axes


def place_image(
    figure: Figure,
    corner: Place,
    picture: np.ndarray,
    title: str = "",
    box: tuple[float, float] = (CELL, CELL),
    **style: Any,
) -> Axes:
    """Show a picture in a box, (width, height) in inches, under a title."""
    axes = place_axes(figure, corner, *box)
    axes.imshow(picture, **style)
    axes.set_title(title, fontsize=9, loc="left", pad=4)
    return axes


def place_ranking(
    figure: Figure,
    corner: Place,
    predictions: Ranking,
    title: str,
    height: float = CELL,
    output: str = "probability",
) -> None:
    """List classes with their answers, probabilities over a bar of that length."""
    axes = place_axes(figure, corner, CELL, height)
    axes.set(xlim=(0, 1), ylim=(max(1, len(predictions)) - 0.5, -0.5))
    for place, (name, value) in enumerate(predictions):
        axes.barh(place, 0 if output == "logit" else value, height=0.72, color="#9ec3e6")
        fit_text(axes.text(0.02, place, name, va="center", fontsize=9, parse_math=False), 0.76 * CELL)
        axes.text(0.99, place, said(value, output), va="center", ha="right", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left", pad=4)


def write(
    figure: Figure, place: Place, text: str, room: float | None = None, tail: str = "", **style: Any
) -> None:
    """Write a line whose left end (right, with `ha`) is at `place`; shorten it to `room` inches."""
    wide, tall = figure.get_size_inches()
    style = {"va": "center", "parse_math": False, **style}
    written = figure.text(place[0] / wide, place[1] / tall, text, **style)
    if room is not None:
        fit_text(written, room, tail)


def fit_text(text: Text, room: float, tail: str = "") -> None:
    """Shorten a text until it is, with `tail` after it, at most `room` inches wide."""
    whole = text.get_text()
    text.set_text(whole + tail)
    for length in range(len(whole) - 1, 0, -1):
        if text.get_window_extent().width <= room * DPI:
            return
        text.set_text(whole[:length].rstrip() + "…" + tail)
