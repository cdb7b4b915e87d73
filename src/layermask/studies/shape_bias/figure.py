"""The figure of mask shapes: bars of the average and of classes (the paper's Figures 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from layermask.io.figure import COLORS, MARGIN, NOTE, new_figure, place_axes
from layermask.metrics.bootstrap import means
from layermask.render.bars import Bounds, exact
from layermask.studies.protocol import class_names, figure_title
from layermask.studies.registry import Columns, Content
from layermask.studies.shape_bias.report import HITS, common_classes, has_classes, words
from layermask.studies.shape_bias.study import biases

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALL, HEAD, FOOT, SIDE = 2.6, 0.6, 0.65, 0.5  # inches: of the bars, above, of the names below, of the scale
NARROW, WIDE, PLOT = 0.26, 0.7, 6.5  # inches: of a bar at least and at most, of a plot if that allows it
NAME, LETTERS, LEGEND = 0.9, 12, 1.6  # inches of a name at least, letters to an inch, of a removal's name
HATCHES = ("", "////", "....")
DRAWN = 5
"""Classes at each end of the order are drawn."""

Three = Sequence[Bounds]
"""Object hidden, broken mask, difference."""
Group = tuple[str, list[Three]]
"""A name, and the numbers of each removal."""


def sheet(columns: Columns, content: Content, hits: int = HITS) -> Figure:
    """Draw the average, then the classes in which the first removal leads the others by the most and least.

    It leads by the difference of its two accuracies. Dark bars: the object is hidden; light ones: the broken
    mask; their difference is printed above.
    """
    groups, removals = _groups(columns, content, hits), content["settings"]["removals"]
    notes = _notes(columns, content, len(groups) - 1, hits)
    pitch = len(removals) + 1  # bars and the gap after them
    bar = min(WIDE, max(NARROW, NAME / pitch, PLOT / (len(groups) * pitch)))
    wide = len(groups) * pitch * bar
    low = 0.5 * MARGIN + FOOT + NOTE * len(notes)
    width = 2 * MARGIN + SIDE + max(PLOT, wide)
    abreast = max(1, int(width / LEGEND))
    height = low + TALL + HEAD + NOTE * (-(-len(removals) // abreast) - 1) + MARGIN
    figure = new_figure(width, height, figure_title(content), notes)
    axes = place_axes(figure, (MARGIN + SIDE, low), wide, TALL, ("left", "bottom"))
    _scales(axes, [name for name, _ in groups], pitch, int(LETTERS * pitch * bar))
    axes.set_ylabel("accuracy" if has_classes(content) else "agreement", fontsize=8)
    for place, (_, numbers) in enumerate(groups):
        for number, three in enumerate(numbers):
            _bar(axes, place * pitch + number + 1, three, _paint(number), upright=bar > 0.45)
    for number, name in enumerate(removals):
        axes.bar(0, 0, label=name, **_paint(number))
    corner = MARGIN / width, 1 - (MARGIN + 0.12) / height
    figure.legend(
        loc="upper left", bbox_to_anchor=corner, ncols=abreast, fontsize=8, frameon=False, borderpad=0
    )
    return figure


def _paint(number: int) -> dict[str, Any]:
    hatch = HATCHES[number // len(COLORS) % len(HATCHES)]
    return {"color": COLORS[number % len(COLORS)], "hatch": hatch, "edgecolor": "white"}


def _groups(columns: Columns, content: Content, hits: int) -> list[Group]:
    found = biases(columns, content)
    groups: list[Group] = [("Average", [means(bias.values()) for bias in found.values()])]
    if not has_classes(content):
        return groups
    names = class_names(content)
    order = common_classes(found, len(names), hits)
    for number in order if len(order) <= 2 * DRAWN else [*order[:DRAWN], *order[-DRAWN:]]:
        shares = [bias.by_class(len(names))[0][number].tolist() for bias in found.values()]
        groups.append((names[number], [list(map(exact, three)) for three in shares]))
    return groups


def _notes(columns: Columns, content: Content, classes: int, hits: int) -> list[str]:
    notes = [
        *words(columns, content),
        "Dark: the object is hidden. Light: the quadrants of its mask are swapped. Above: light minus dark.",
        "Lines: 95 % intervals over images.",
    ]
    first = content["settings"]["removals"][0]
    if classes == 2 * DRAWN:
        notes.append(
            f"Shown are the classes in which {first} leads the other removals by the most and by the least."
        )
    if has_classes(content) and not classes:
        notes.append(f"No class has more than {hits} images that the model gets right (--hits).")
    return notes


def _scales(axes: Axes, names: Sequence[str], pitch: int, letters: int) -> None:
    axes.set(xlim=(0, len(names) * pitch), ylim=(0, 1.15))
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xticks([(place + 0.5) * pitch for place in range(len(names))])
    lines = ["\n".join(wrap(name, letters, max_lines=3, placeholder="…")) for name in names]
    axes.set_xticklabels(lines, parse_math=False)


def _bar(axes: Axes, middle: float, three: Three, paint: dict[str, Any], upright: bool) -> None:
    numbers = [value for value, _, _ in three]
    if not isfinite(numbers[2]):
        axes.text(middle, 0.02, "none", rotation=90, ha="center", va="bottom", fontsize=7)
        return
    # The dark bar is the narrower, so that both are seen where it is the higher.
    for place, width, shade in ((1, 0.86, 0.35), (0, 0.5, 1.0)):
        axes.bar(middle, numbers[place], width=width, alpha=shade, **paint)
    for (_, low, high), side in zip(three, (-0.1, 0.1), strict=False):
        if low < high:
            axes.plot([middle + side] * 2, [low, high], color="0.15", linewidth=1)
    top = max(bound for each in three[:2] for bound in each if isfinite(bound)) + 0.015
    text = f"{numbers[2]:+.2f}".replace("-", "\N{MINUS SIGN}")
    axes.text(middle, top, text, rotation=0 if upright else 90, ha="center", va="bottom", fontsize=7)
