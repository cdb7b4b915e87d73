"""The page of an audit: its record and some pictures as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from layermask.render.html import bars, data_uri, filled, page, paragraph, section, settings_table
from layermask.render.words import listed, percent
from layermask.studies.audit import sections, words
from layermask.studies.audit.samples import Shown

if TYPE_CHECKING:
    import numpy as np

Record = Mapping[str, Any]


def audit_page(record: Record, shown: Sequence[Shown]) -> str:
    """Return the page; all its numbers are those of the record, `shown` are the pictures of its samples."""
    verdict = record["verdict"]
    parts = [
        sections.compared(record),
        sections.curves(record),
        samples(record, shown),
        sections.holes(record),
        sections.shape(record),
        sections.linearity(record),
    ]
    content = filled(
        "audit.html",
        headline=escape(words.headline(record)),
        verdict=_verdict(record),
        images=record["images"],
        ways=len(record["removals"]),
        sections="\n".join(parts),
        shares=len(record["fractions"]),
        segments=escape(listed(record["segmentations"])),
        same=verdict["same_when_whole"],
        level=percent(record["level"], 2),
        each_level=percent(verdict["level"], 2),
        settings=_settings(record),
    )
    text = page(f"Missingness audit of {record['model']['name']}", content, lead=_lead(record))
    return re.sub(r"(\d) %", "\\1&nbsp;%", text)  # no line begins with a %


def _lead(record: Record) -> str:
    lead = f"{record['images']} images of {record['data']['name']}, {len(record['removals'])} removals"
    if record["skipped"]:
        lead += f"; {len(record['skipped'])} images that cannot be read were left out"
    return f"{lead}. layermask {record['versions']['layermask']}."


def _verdict(record: Record) -> str:
    paragraphs = "\n".join(map(paragraph, words.reasons(record)))
    remarks = "\n".join(f"<li>{escape(text)}</li>" for text in words.remarks(record))
    remarks = f"<ul>\n{remarks}\n</ul>\n" if remarks else ""
    kept = [(_named(record, name), words.kept(record, name)) for name in sections.ranked(record)]
    chart = bars("<h3>Unchanged predictions</h3>", kept)
    return f'<div class="split">\n<div>\n{paragraphs}\n{remarks}</div>\n{chart}\n</div>'


def _named(record: Record, name: str) -> str:
    return name if name in record["candidates"] else f"{name} (not a candidate)"


def _settings(record: Record) -> str:
    shown = {key: record[key] for key in ("model", "data", "settings", "device", "versions")}
    return section("settings", "Settings and versions", settings_table(shown))


_INTRO = {
    "differing": "<strong>Chosen</strong>: of the images that the model gets right when they are whole, "
    "those on which the removals differ most. They are extreme cases.",
    "drawn": "<strong>Drawn at random</strong>, for comparison.",
}


def samples(record: Record, shown: Sequence[Shown]) -> str:
    """Return the pictures of the record's samples."""
    pairs = list(zip(record["samples"], shown, strict=True))
    if not pairs:
        return ""
    parts = []
    for chosen, intro in _INTRO.items():
        found = [_sample(record, *pair) for pair in pairs if pair[0]["chosen"] == chosen]
        parts += [f'<p class="chosen">{intro}</p>', *found] if found else []
    first = paragraph(
        f"The same {percent(pairs[0][0]['hidden'], 0)} of the segments are hidden under each removal. Below "
        "each picture: the model's prediction, its probability, and whether it is the prediction for the "
        "whole image. A checkerboard marks pixels that the model does not see at all."
    )
    return section("samples", "What the model sees and predicts", first, *parts)


def _sample(record: Record, sample: Mapping[str, Any], shown: Shown) -> str:
    whole = sample["whole"]
    label = f", labelled {sample['label']['name']}" if sample["label"] else ""
    views = [_view("whole image", shown.whole, whole, "")]
    for name in record["removals"]:
        answer = sample["answers"][name]
        same = answer["class"] == whole["class"]
        views.append(_view(name, shown.under[name], answer, "kept" if same else "lost"))
    return (
        f'<div class="sample">\n<h3>{escape(sample["image"] + label)}</h3>\n'
        f'<div class="views">\n{"".join(views)}</div>\n</div>'
    )


def _view(name: str, picture: np.ndarray, answer: Mapping[str, Any], state: str) -> str:
    predicted = f"{answer['name']}, {percent(answer['confidence'], 0)}"
    sign = {"kept": "✓ kept", "lost": "✗ lost", "": ""}[state]
    mark = f'<span class="{state}">{sign}</span>' if state else ""
    alt = escape(f"{f'Under {name}' if state else 'The whole image'}: {predicted}")
    tall, wide = picture.shape[:2]
    return (
        f'<figure><img src="{data_uri(picture, "JPEG")}" width="{wide}" height="{tall}" alt="{alt}">'
        f"<figcaption><b>{escape(name)}</b>{escape(predicted)} {mark}</figcaption></figure>\n"
    )
