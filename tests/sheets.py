"""What every picture owes its reader: all of its texts, whole and apart."""

from __future__ import annotations

import itertools
from typing import Any

from matplotlib.text import Text


def _beyond_the_ends(figure: Any) -> set[Any]:
    """Labels of ticks outside of what an axis shows: they are there, but not drawn."""
    found = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        found |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    return found


def readable_texts(figure: Any) -> list[tuple[str, Any]]:
    """Return the texts of a figure with their boxes, none of them cut off or over another."""
    figure.canvas.draw()
    beyond = _beyond_the_ends(figure)
    found = figure.findobj(match=Text)
    texts = [text for text in found if text.get_text() and text.get_visible() and text not in beyond]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        tall = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or tall <= 1, (one, other)
    return boxes
