"""The sections of an audit's page that have numbers, each from the record of the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

from layermask.io.figure import svg
from layermask.metrics.bootstrap import Estimate
from layermask.render.bars import common_limits, interval_chart
from layermask.render.curves import Plot, curve_chart, swatch
from layermask.render.html import paragraph, section
from layermask.render.table import Cell, Html, Table
from layermask.render.words import Points, Share, percent, rounded
from layermask.studies.audit.words import kept, lead, leading, share
from layermask.studies.protocol import OF_THE_DATA
from layermask.studies.segments.figure import highest
from layermask.studies.segments.report import LABELS

Record = Mapping[str, Any]

_MEANINGS = {
    "unchanged": "How often the model keeps its prediction for the whole image. Higher is better.",
    "accuracy": "How often the prediction is the label of the data. Higher is better.",
    "class-entropy": "How varied the predictions are (in nats): 0 if all images become one class. Higher is "
    "better.",
    "wordnet-similarity": "How close in meaning the prediction is to the label: a wrong breed of dog is "
    "closer than a maze. Higher is better.",
}


def ranked(record: Record) -> list[str]:
    """Return the removals, the one that keeps most predictions first."""
    return sorted(record["removals"], key=lambda name: -kept(record, name))


def compared(record: Record) -> str:
    """Return the table of removals, the best first, with their distances from the leader."""
    verdict, names = record["verdict"], ranked(record)
    gaps = {each["removal"]: each for each in verdict["comparisons"]}
    limits = common_limits(map(lead, gaps.values()))
    rows: list[Sequence[Cell]] = []
    for number, name in enumerate(names):
        found, gap = record["removals"][name], gaps.get(name)
        drawing = svg(interval_chart(lead(gap), limits), f"gap{number}", "interval") if gap else ""
        rows.append(
            (
                head(record, name, found["summary"]),
                Share(**found["areas"][record["criterion"]]),
                Html(drawing),
                lead(gap) if gap else "",
                _judged(record, name, gap),
            )
        )
    title = (
        "Unchanged predictions in percent, and how far each removal is behind the leader in points of a "
        "hundred, with intervals. If an interval crosses the dotted line at 0, these images cannot tell the "
        "two apart."
    )
    header = (
        "removal: what hidden pixels become",
        LABELS[record["criterion"]],
        f"behind {verdict['leader']} by",
        "points",
        "verdict",
    )
    best = None if verdict["kind"] == "few" else names.index(verdict["recommended"])
    return section("compared", "The removals compared", Table("compared", title, header, rows).as_html(best))


def _judged(record: Record, name: str, gap: Mapping[str, Any] | None) -> str:
    verdict = record["verdict"]
    take = "; take this one" if name == verdict["recommended"] and verdict["kind"] == "tie" else ""
    if record["removals"][name]["shows_hidden"]:
        return "not a candidate: shows what it hides"
    if gap is None:
        return ("leads" if len(verdict["tied"]) > 1 else "best") + take
    if name not in verdict["tied"]:
        return "worse"
    if gap["images_needed"]:
        return f"not told apart (about {rounded(gap['images_needed'])} images might be enough){take}"
    return f"not told apart{take}"


def curves(record: Record) -> str:
    """Return a chart per segmentation and metric, and the areas under the curves."""
    pairs = [(one, metric) for one in record["segmentations"] for metric in record["metrics"]]
    charts = "\n".join(_chart(record, number, *pair) for number, pair in enumerate(pairs))
    legend = "".join(f"<li>{head(record, name)}</li>" for name in record["removals"])
    note = "Segments are hidden in random order. Shades are intervals over images."
    if record["labels"] != OF_THE_DATA:
        note += " The data has no labels: the model's prediction for the whole image is used instead."
    header = ("removal", *(LABELS[metric] for metric in record["metrics"]))
    rows = [
        (head(record, name), *(Estimate(**area) for area in each["areas"].values()))
        for name, each in record["removals"].items()
    ]
    title = "Means of the points of the curves (areas under them), with intervals. Higher is better."
    return section(
        "curves",
        "As more and more is hidden",
        paragraph(note),
        f'<ul class="legend">{legend}</ul>',
        f'<div class="charts">\n{charts}\n</div>',
        Table("areas", title, header, rows).as_html(),
    )


def _chart(record: Record, number: int, segmentation: str, metric: str) -> str:
    lines = {}
    for name, each in record["removals"].items():
        found = each["curves"][metric][segmentation]
        lines[name] = list(zip(found["value"], found["low"], found["high"], strict=True))
    title = LABELS[metric][0].upper() + LABELS[metric][1:]
    title += f", {segmentation}" if len(record["segmentations"]) > 1 else ""
    shares = record["fractions"]
    told = "; ".join(_told(name, shares, points) for name, points in lines.items())
    label = f"{title} over the share of the segments hidden. {told}."
    drawing = svg(curve_chart(Plot(shares, lines, top=highest(metric))), f"chart{number}", label=label)
    caption = f"<figcaption>{_MEANINGS[metric]}</figcaption>"
    return f"<figure>\n<h3>{escape(title)}</h3>\n{drawing}\n{caption}\n</figure>"


def _told(name: str, shares: Sequence[float], points: Sequence[tuple[float, float, float]]) -> str:
    """Return what a chart shows of a removal, for those who cannot see it."""
    places = (0, len(shares) // 2, len(shares) - 1)
    return f"{name}: " + ", ".join(f"{points[k][0]:.2f} at {percent(shares[k], 0)}" for k in places)


def holes(record: Record) -> str:
    """Return the classes that the hidden part is mistaken for, per removal."""
    low, high = (percent(value, 0) for value in record["mistaken_at"])
    intro = (
        f"With {low} to {high} hidden: classes that the model predicts significantly more often than for "
        "whole images. The hidden part looks like them to the model, or they are its default when details "
        "are missing."
    )
    parts = "\n".join(_holes_of(record, name) for name in record["removals"])
    return section(
        "holes",
        "What the hidden part is mistaken for",
        paragraph(intro),
        f'<div class="holes">\n{parts}\n</div>',
    )


def _holes_of(record: Record, name: str) -> str:
    rows = [
        (each["name"], each["count"], each["images"], share(each["share"]), share(each["whole"]))
        for each in record["removals"][name]["mistaken"]
    ]
    header = ("class", "predictions", "images", "share", "of whole images")
    first, rest = (Table("mistaken", "", header, part).as_html() for part in (rows[:5], rows[5:]))
    heading = f"<h3>{head(record, name)}</h3>"
    if not rows:
        return f"<div>{heading}\n<p>No class stands out.</p></div>"
    more = f"<details><summary>{len(rows) - 5} more</summary>\n{rest}</details>" if rows[5:] else ""
    return f"<div>{heading}\n{first}{more}</div>"


def shape(record: Record) -> str:
    """Return what the shape of the hidden part gives away, or why that was not measured."""
    found = record["shape"] or {"why_not": record["notes"]["shape"]}
    if "why_not" in found:
        return _not_measured("shape", "Mask shape", found["why_not"])
    intro = (
        "Does the shape of the hidden part tell the model which object was there? If so, the model is often "
        "right although the object is hidden. For comparison, the same area is hidden elsewhere: the "
        "quadrants of the mask are swapped. The model should then be right; if it is not, the removal "
        f"disturbs it. The difference of the two should therefore be large. Of {found['images']} images with "
        f"a mask, {found['right']} count: they show the object and something else, and the model is right "
        "about the whole image."
    )
    if found["labels"] != OF_THE_DATA:
        intro += " There are no labels: the model's prediction for the whole image counts as right."
    header = ("removal", "right without the object", "right with as much hidden elsewhere", "difference")
    header = (*header, f"difference to {leading(record)}")
    rows = [
        (
            head(record, name),
            *(Share(**each[key]) for key in ("hidden", "broken", "difference")),
            _turned(each["lead"]) if "lead" in each else "",
        )
        for name, each in found["removals"].items()
    ]
    table = Table("shape", "With intervals.", header, rows)
    return section("shape", "Mask shape", paragraph(intro), table.as_html())


def _turned(ahead: Mapping[str, float]) -> Points:
    """Return a lead seen from the other side."""
    return Points(-ahead["value"], -ahead["high"], -ahead["low"])


def linearity(record: Record) -> str:
    """Return how far answers to patches add up, or why that was not measured."""
    found = record["linearity"]
    if found is None:
        return _not_measured("linearity", "Linearity", record["notes"]["linearity"])
    of = found["of"]
    intro = (
        "Explanations add up the contributions of parts. That suits a model better, the closer the sum of "
        f"its {of} for single patches, with all else hidden, comes to its {of} for the whole image. The "
        f"cosine is 1 if both point in the same direction. The distance is relative to the norm of the {of} "
        "for the whole image, and 0 if both are the same. A sum of many vectors is long in any case, so the "
        f"cosine says more. This was measured on {found['images']} images."
    )
    header = ("removal", "cosine (higher is better)", "distance (lower is better)")
    tables = [
        Table(
            "linearity",
            f"Patches of {patch} × {patch} pixels, with intervals.",
            header,
            [
                (head(record, name), *(Estimate(**each[key]) for key in ("cosine", "l2")))
                for name, each in by.items()
            ],
        ).as_html()
        for patch, by in found["patches"].items()
    ]
    return section("linearity", "Linearity", paragraph(intro), *tables)


def _not_measured(key: str, title: str, why: str) -> str:
    return section(key, title, paragraph(f"Not measured: {why}."))


def head(record: Record, removal: str, note: str = "") -> Html:
    """Return a removal's name with its line in the charts, and a note below it."""
    drawing = _swatch(list(record["removals"]).index(removal))
    small = f"<small>{escape(note)}</small>" if note else ""
    return Html(f"{drawing}{escape(removal)}{small}")


@cache
def _swatch(number: int) -> str:
    return svg(swatch(number), "swatch", "swatch")
