"""The page of an audit: its record and some pictures as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from layermask.render.html import Page, settings_table, template
from layermask.render.markup import bars, section
from layermask.studies.audit import sections, views, words
from layermask.studies.audit.samples import Shown

Record = Mapping[str, Any]


def audit_page(record: Record, shown: Sequence[Shown]) -> str:
    """Return the page; all its numbers are those of the record, `shown` are the pictures of its samples."""
    style = Page(template("page.css")).substitute(supports="#fff", detracts="#fff")
    verdict = record["verdict"]
    parts = [
        sections.compared(record),
        sections.curves(record),
        views.samples(record, shown),
        sections.holes(record),
        sections.shape(record),
        sections.linearity(record),
    ]
    page = Page(template("audit.html")).substitute(
        title=escape(f"Missingness audit of {record['model']['name']}"),
        style=style + template("audit.css"),
        lead=escape(_lead(record)),
        headline=escape(words.headline(record)),
        verdict=_verdict(record),
        images=record["images"],
        ways=len(record["removals"]),
        sections="\n".join(parts),
        shares=len(record["fractions"]),
        segments=escape(words.listed(record["segmentations"])),
        same=verdict["same_when_whole"],
        level=words.percent(record["level"], 2),
        each_level=words.percent(verdict["level"], 2),
        settings=_settings(record),
    )
    return re.sub(r"(\d) %", "\\1&nbsp;%", page)  # no line begins with a %


def _lead(record: Record) -> str:
    lead = f"{record['images']} images of {record['data']['name']}, {len(record['removals'])} removals"
    if record["skipped"]:
        lead += f"; {len(record['skipped'])} images that cannot be read were left out"
    return f"{lead}. layermask {record['versions']['layermask']}."


def _verdict(record: Record) -> str:
    paragraphs = "\n".join(f"<p>{escape(text)}</p>" for text in words.reasons(record))
    remarks = "\n".join(f"<li>{escape(text)}</li>" for text in words.remarks(record))
    remarks = f"<ul>\n{remarks}\n</ul>\n" if remarks else ""
    kept = {_named(record, name): words.kept(record, name) for name in sections.ranked(record)}
    return f'<div class="split">\n<div>\n{paragraphs}\n{remarks}</div>\n{bars("Answers kept", kept)}\n</div>'


def _named(record: Record, name: str) -> str:
    return name if name in record["candidates"] else f"{name} (no candidate)"


def _settings(record: Record) -> str:
    shown = {key: record[key] for key in ("model", "data", "settings", "device", "versions")}
    return section("settings", "Settings and versions", f'<div class="wide">{settings_table(shown)}</div>')
