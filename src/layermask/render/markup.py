"""Pieces of HTML that the sections of the page are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from layermask.render.chart import swatch
from layermask.studies.audit.words import percent

_STYLES = 6  # of lines, in the style sheet


def section(key: str, title: str, *content: str) -> str:
    body = "\n".join(filter(None, content))
    return f'<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(title)}</h2>\n{body}\n</section>'


def table(caption: str, header: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls where the window is narrow; header and rows are HTML already."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    above = f'<p class="caption">{caption}</p>\n' if caption else ""
    body = "\n".join(rows)
    return (
        f'{above}<div class="wide" tabindex="0" role="region" aria-label="{escape(caption or header[0])}">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def bars(title: str, shares: Mapping[str, float]) -> str:
    """Return shares of 1 by name as bars with their numbers."""
    rows = "\n".join(
        f'<li style="--share: {100 * share:.2f}%"><span>{escape(name)}</span>'
        f"<span>{percent(share)}</span></li>"
        for name, share in shares.items()
    )
    return f'<div class="predictions">\n<h3>{escape(title)}</h3>\n<ol>\n{rows}\n</ol>\n</div>'


def style_of(record: Mapping[str, Any], removal: str) -> tuple[int, str]:
    """Return the number of a removal's line style, and a piece of the line."""
    number = list(record["removals"]).index(removal) % _STYLES
    return number, swatch(number)


def head(record: Mapping[str, Any], removal: str, note: str = "") -> str:
    """Return the head of a removal's row."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<th scope="row">{style_of(record, removal)[1]}{escape(removal)}{small}</th>'


def estimate(found: Mapping[str, float]) -> str:
    """Return a cell of a number and its bounds."""
    around = f"{found['low']:.3f} to {found['high']:.3f}"
    return f'<td class="number">{found["value"]:.3f}<br><small>{around}</small></td>'


def share_estimate(found: Mapping[str, float]) -> str:
    """Return a cell of a share and its bounds, in %."""
    around = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
    return f'<td class="number">{percent(found["value"])}<br><small>{around}</small></td>'
