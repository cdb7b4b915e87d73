"""The figure of removal operators: their measures, how each ranks methods, and how far those agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import Bounds, Line, Matrix, Panel, bar_sheet, better, exact
from layermask.studies.operators.report import BETTER, Found, found, words
from layermask.studies.operators.study import OF_REMOVALS
from layermask.studies.protocol import figure_title
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 4  # panels in a line
PLAIN = ("#7f9fb5",)


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw, for each segmentation, bars per removal, the SRG of each method, and the matrix of agreement."""
    notes = [
        *words(columns, content),
        "SRG: the area of LeRF minus that of MoRF. #1: the best method under the removal above.",
    ]
    lines = [
        line for one in found(columns, content) for line in (_measures(one), *_rankings(one), _agreement(one))
    ]
    return bar_sheet(figure_title(content), lines, notes)


def _measures(one: Found) -> Line:
    bars: dict[str, Sequence[Bounds]] = {name: one.of_removals(name) for name in OF_REMOVALS}
    bars["rank-stability"] = list(map(exact, one.stability()))
    scale = one.segmentation
    panels = [Panel(better(name, BETTER[name]), each, f"{name}, {scale}") for name, each in bars.items()]
    return Line(one.segmentation, one.removals, panels)


def _rankings(one: Found) -> Iterator[Line]:
    """Yield lines with the mean SRG of each method under each removal, all on one scale."""
    by_removal = zip(*(means(gains) for gains in one.gains), strict=True)
    panels = [
        Panel(f"SRG by {removal}", bars, f"SRG, {one.segmentation}", PLAIN, [f"  #{rank}" for rank in ranks])
        for removal, bars, ranks in zip(one.removals, by_removal, one.ranks.T.tolist(), strict=True)
    ]
    for start in range(0, len(panels), ACROSS):
        yield Line("", one.methods, panels[start : start + ACROSS])


def _agreement(one: Found) -> Line:
    names = [f"{name} {number}" for number, name in enumerate(one.removals, 1)]
    title = "agreement of these rankings, Kendall's tau"
    return Line("", names, [Matrix(title, one.agreement().tolist())])
