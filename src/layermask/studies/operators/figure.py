"""The figure of removal operators: their measures, how each ranks methods, and how far those agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import (
    Bounds,
    common_limits,
    line_height,
    line_width,
    numbered,
    place_bars,
    place_matrix,
    place_names,
)
from layermask.render.figure import MARGIN, new_figure
from layermask.studies.operators.report import BETTER, Found, found, words
from layermask.studies.operators.study import OF_REMOVALS
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 4  # panels in a line
PLAIN = ("#7f9fb5",)


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw, for each segmentation, bars per removal, the SRG of each method, and the matrix of agreement."""
    settings, notes = content["settings"], words(columns, content)
    notes.append("Lines: 95 % intervals over images. (higher), (lower): which way is better.")
    notes.append("SRG: the area of LeRF less that of MoRF. #1: the best method by the removal above.")
    each, width = found(columns, content), 2 * MARGIN + line_width(ACROSS)
    height = 2 * MARGIN + 0.2 + sum(map(_height, each)) + 0.18 * len(notes)
    figure = new_figure(width, height, f"{settings['model']['name']}, {settings['data']['name']}")
    top = height - MARGIN - 0.2
    for one in each:
        _measures(figure, one, top)
        _rankings(figure, one, top - line_height(len(one.removals)))
        _agreement(figure, one, top - _height(one))
        top -= _height(one)
    place = MARGIN / width, 0.5 * MARGIN / height
    figure.text(*place, "\n".join(notes), va="bottom", fontsize=8, color="0.35")
    return figure


def _height(one: Found) -> float:
    lines = -(-len(one.removals) // ACROSS)
    return 2 * line_height(len(one.removals)) + lines * line_height(len(one.methods))


def _measures(figure: Figure, one: Found, top: float) -> None:
    corner = MARGIN, top - line_height(len(one.removals))
    place_names(figure, corner, one.segmentation, one.removals)
    panels: dict[str, list[Bounds]] = {name: list(one.of_removals(name)) for name in OF_REMOVALS}
    panels["rank-stability"] = [(value, float("nan"), float("nan")) for value in one.stability()]
    for panel, (name, bars) in enumerate(panels.items()):
        title = f"{name} ({'higher' if BETTER[name] else 'lower'})"
        place_bars(figure, corner, panel, title, bars, common_limits(bars))


def _rankings(figure: Figure, one: Found, top: float) -> None:
    """Draw the mean SRG of each method under each removal, on one scale."""
    by_method = [means(gains) for gains in one.gains]
    limits = common_limits(number for row in by_method for number in row)
    for place, removal in enumerate(one.removals):
        line, panel = divmod(place, ACROSS)
        corner = MARGIN, top - (1 + line) * line_height(len(one.methods))
        if not panel:
            place_names(figure, corner, "", one.methods)
        tails = [f"  #{rank}" for rank in one.ranks[:, place].tolist()]
        bars = [row[place] for row in by_method]
        place_bars(figure, corner, panel, f"SRG by {removal}", bars, limits, PLAIN, tails)


def _agreement(figure: Figure, one: Found, bottom: float) -> None:
    place_names(figure, (MARGIN, bottom), "", numbered(one.removals))
    title = "agreement of these rankings, Kendall's tau"
    place_matrix(figure, (MARGIN, bottom), title, one.agreement().tolist())
