"""What all pages are made of: templates beside the code, tables of settings, pictures within the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

from layermask.errors import require

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
    require("PIL.Image", "cli").fromarray(picture).save(buffer, kind, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
