"""`Table`: numbers as data, which are printed, put on a page of Markdown or HTML, or written as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from math import isnan

from layermask.metrics.bootstrap import Estimate
from layermask.render.words import with_bounds

Cell = str | int | float | Estimate


class Html(str):
    """Markup, which stands in the cell of a page as it is."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header. `name` is that of its CSV file, `title` stands above it on the page.

    `better`: by column, whether higher is. `on_page`: False for what is long, and in its CSV file only.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    better: Mapping[str, bool] = field(default_factory=dict)
    on_page: bool = True

    def as_markdown(self) -> str:
        """Return the table, columns of equal width, and below it which way is better."""
        if not self.rows:
            return "None."
        rows = [list(self.header), *(list(map(_text, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        directions = self._directions()
        return "\n".join([lines[0], rule, *lines[1:], *(["", directions] if directions else [])])

    def _directions(self) -> str:
        parts = []
        for word, higher in (("Higher", True), ("Lower", False)):
            if names := [name for name in self.header if self.better.get(name) is higher]:
                parts.append(f"{word} is better: {', '.join(names)}.")
        return " ".join(parts)

    def as_csv(self) -> str:
        """Return a line per row; an estimate has three columns, the number and its bounds."""
        buffer = StringIO()
        lines = [self._names(), *([text for cell in row for text in _texts(cell)] for row in self.rows)]
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()

    def as_html(self, marked: int | None = None) -> str:
        """Return the table with its title above it; the first cell of a row is its head.

        It scrolls where the window is narrow. `marked`: the number of a row that stands out.
        """
        title = f'<p class="caption">{escape(self.title)}</p>\n' if self.title else ""
        heads = "".join(f'<th scope="col">{_markup(name)}</th>' for name in self.header)
        heads = f"<thead><tr>{heads}</tr></thead>\n" if heads else ""
        rows = "\n".join(_row(row, number == marked) for number, row in enumerate(self.rows))
        label = escape(self.title or " ".join(self.header[:1]) or self.name)
        return (
            f'{title}<div class="wide" tabindex="0" role="region" aria-label="{label}">\n'
            f"<table>\n{heads}<tbody>\n{rows}\n</tbody>\n</table></div>"
        )

    def _names(self) -> list[str]:
        first = self.rows[0] if self.rows else [""] * len(self.header)
        return [
            column
            for name, cell in zip(self.header, first, strict=True)
            for column in ([name, f"{name} low", f"{name} high"] if isinstance(cell, Estimate) else [name])
        ]


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate) and not isnan(cell.value):
        return f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    number = cell.value if isinstance(cell, Estimate) else cell
    if isinstance(number, float):
        return "-" if isnan(number) else f"{number:.3f}"
    return str(number)


def _texts(cell: Cell) -> list[str]:
    if isinstance(cell, Estimate):
        return [f"{number:.6f}" for number in cell]
    return [f"{cell:.6f}" if isinstance(cell, float) else str(cell)]


def _markup(text: Cell) -> str:
    return text if isinstance(text, Html) else escape(str(text))


def _row(row: Sequence[Cell], stands_out: bool) -> str:
    cells = f'<th scope="row">{_markup(row[0])}</th>' + "".join(map(_html, row[1:]))
    return f'<tr class="best">{cells}</tr>' if stands_out else f"<tr>{cells}</tr>"


def _html(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{_markup(cell)}</td>"
    if not isinstance(cell, Estimate):
        return f'<td class="number">{_text(cell)}</td>'
    number, interval = with_bounds(cell)
    return f'<td class="number">{number}' + (f"<br><small>{interval}</small></td>" if interval else "</td>")
