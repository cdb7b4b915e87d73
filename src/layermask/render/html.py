"""What all pages are made of: templates beside the code, tables of settings, pictures within the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

from layermask.errors import import_optional

if TYPE_CHECKING:
    import numpy as np


class Page(Template):
    delimiter = "@@"  # "$" is JavaScript's, and "@" begins CSS rules


def template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def settings_table(settings: Mapping[str, Any]) -> str:
    """Return a table of names and values; values that are mappings become rows of their own."""
    rows = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in _flat(settings)
    )
    return "<table>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{name}: ")
        else:
            value = "none" if value is None else value
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            rows.append((f"{above}{name}", text))
    return rows


def data_uri(picture: np.ndarray, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """Return a picture (H, W, 3) uint8 as an address that holds it; JPEG loses what the eye misses."""
    buffer = BytesIO()
    import_optional("PIL.Image", "cli").fromarray(picture).save(buffer, kind, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


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


def percent(share: float, digits: int = 1) -> str:
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits > 1 else text} %"
