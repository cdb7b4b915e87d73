"""What all pages are made of: one frame, one style sheet, and sections, lists of bars and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

from layermask.errors import import_optional
from layermask.io.answers import said
from layermask.render.table import Table
from layermask.render.words import percent

if TYPE_CHECKING:
    import numpy as np


class _Template(Template):
    delimiter = "@@"  # "$" is JavaScript's, and "@" begins CSS rules


def template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def filled(name: str, **values: Any) -> str:
    """Return a template with its names replaced by values, which are HTML already."""
    return _Template(template(name)).substitute(values)


def page(title: str, content: str, *, lead: str = "", script: str = "") -> str:
    """Return a page that loads nothing from elsewhere. `content` and `script` are HTML, the rest is text.

    Scripts are forbidden to a page that brings none.
    """
    return filled(
        "page.html",
        title=escape(title),
        policy="; script-src 'unsafe-inline'" if script else "",
        style=template("page.css"),
        lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
        content=content,
        script=script,
    )


def section(key: str, title: str, *content: str) -> str:
    body = "\n".join(filter(None, content))
    return f'<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(title)}</h2>\n{body}\n</section>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def settings_table(settings: Mapping[str, Any]) -> str:
    """Return a table of names and values; values that are mappings become rows of their own."""
    return Table("settings", "", (), _flat(settings)).as_html()


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{name}: ")
        else:
            value = "none" if value is None else value
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{above}{name}", text))
    return rows


def data_uri(picture: np.ndarray, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """Return a picture (H, W, 3) uint8 as an address that holds it; JPEG loses what the eye misses."""
    buffer = BytesIO()
    import_optional("PIL.Image", "cli").fromarray(picture).save(buffer, kind, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def bars(heading: str, answers: Sequence[tuple[str, float]], output: str = "probability") -> str:
    """Return a list of names with answers, probabilities over a bar of that length; the heading is HTML."""
    rows = "\n".join(
        f'<li style="--share: {0 if output == "logit" else 100 * value:.2f}%"><span>{escape(name)}</span>'
        f"<span>{said(value, output) if output == 'logit' else percent(value)}</span></li>"
        for name, value in answers
    )
    return f'<div class="predictions">\n{heading}\n<ol>\n{rows}\n</ol>\n</div>'
