"""The section of pictures: what the model is shown under each removal, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from layermask.render.html import data_uri
from layermask.render.markup import section
from layermask.studies.audit.samples import Shown
from layermask.studies.audit.words import percent

if TYPE_CHECKING:
    import numpy as np

Record = Mapping[str, Any]
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
