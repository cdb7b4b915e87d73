"""The page of an audit: its record and some pictures as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from layermask.render.html import Page, bars, data_uri, percent, section, settings_table, template
from layermask.studies.audit import sections, words
from layermask.studies.audit.samples import Shown

if TYPE_CHECKING:
    import numpy as np

Record = Mapping[str, Any]


def audit_page(record: Record, shown: Sequence[Shown]) -> str:
    """Return the page; all its numbers are those of the record, `shown` are the pictures of its samples."""
    style = Page(template("page.css")).substitute(supports="#fff", detracts="#fff")
    verdict = record["verdict"]
    parts = [
        sections.compared(record),
        sections.curves(record),
        samples(record, shown),
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


_INTRO = {
    "differing": "<strong>Chosen</strong>: of the images that the model gets right whole, those on which "
    "removals differ most. They are extremes.",
    "drawn": "<strong>Drawn at random</strong>, for comparison.",
}


def samples(record: Record, shown: Sequence[Shown]) -> str:
    """Return the pictures of the record's samples."""
    pairs = list(zip(record["samples"], shown, strict=True))
    parts = []
    for chosen, intro in _INTRO.items():
        found = [_sample(record, *pair) for pair in pairs if pair[0]["chosen"] == chosen]
        parts += [f'<p class="chosen">{intro}</p>', *found] if found else []
    if not pairs:
        return ""
    hidden = percent(pairs[0][0]["hidden"], 0)
    first = (
        f"<p>The same {hidden} of the segments are hidden under each removal. Below every picture: what the "
        "model answers, its probability, and whether that is its answer for the whole image. A checkerboard "
        "marks pixels that the model is not shown at all.</p>"
    )
    return section("samples", "What the model sees, and what it says", first, *parts)


def _sample(record: Record, sample: Mapping[str, Any], shown: Shown) -> str:
    whole = sample["whole"]
    label = f", labelled {sample['label']['name']}" if sample["label"] else ""
    views = [_view("whole image", shown.whole, whole, "")]
    for name in record["removals"]:
        answer = sample["answers"][name]
        views.append(_view(name, shown.under[name], answer, "kept" if _same(answer, whole) else "lost"))
    return (
        f'<div class="sample">\n<h3>{escape(sample["image"] + label)}</h3>\n'
        f'<div class="views">\n{"".join(views)}</div>\n</div>'
    )


def _same(answer: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    return answer["class"] == whole["class"]


def _view(name: str, picture: np.ndarray, answer: Mapping[str, Any], state: str) -> str:
    said = f"{answer['name']}, {percent(answer['confidence'], 0)}"
    sign = {"kept": "✓ kept", "lost": "✗ lost", "": ""}[state]
    mark = f'<span class="{state}">{sign}</span>' if state else ""
    alt = escape(f"Under {name} the model answers {said}" if state else f"The whole image: {said}")
    tall, wide = picture.shape[:2]
    return (
        f'<figure><img src="{data_uri(picture, "JPEG")}" width="{wide}" height="{tall}" alt="{alt}">'
        f"<figcaption><b>{escape(name)}</b>{escape(said)} {mark}</figcaption></figure>\n"
    )
