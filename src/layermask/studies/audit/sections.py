"""The sections of the page about removal of segments, each from the record of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from layermask.render.chart import Line, interval_bar, line_chart, swatch
from layermask.render.html import percent, section, table
from layermask.studies.audit.words import METRIC_WORDS, bounds, kept, points, rounded

if TYPE_CHECKING:
    pass

Record = Mapping[str, Any]

_METRICS_SAY = {
    "unchanged": "How often the model keeps its answer for the whole image. Higher is better.",
    "accuracy": "How often the answer is the label of the data. Higher is better.",
    "class-entropy": "How varied answers are (nats): 0 if all images become one class. Higher is better.",
    "wordnet-similarity": "How near in meaning the answer is to the label: a wrong breed of dog is nearer "
    "than a maze. Higher is better.",
}


def ranked(record: Record) -> list[str]:
    """Return the removals, the one that keeps most answers first."""
    return sorted(record["removals"], key=lambda name: -kept(record, name))


def compared(record: Record) -> str:
    """Return the table of removals, the best first, with their distances from the leader."""
    gaps = {each["removal"]: each for each in record["verdict"]["comparisons"]}
    low = min([each["low"] for each in gaps.values()], default=0.0)
    high = max([each["high"] for each in gaps.values()], default=0.0)
    rows = [_compared_row(record, name, gaps.get(name), (low, high)) for name in ranked(record)]
    leader = escape(record["verdict"]["leader"])
    header = (
        "removal: what hidden pixels become",
        "answers kept",
        f"behind {leader} by",
        "points",
        "verdict",
    )
    caption = (
        "Answers kept in % of all, and how far each removal is behind the leader in points of a hundred, "
        "with intervals. One that crosses the dotted line, 0, is no difference that these images can show."
    )
    return section("compared", "The removals compared", table(caption, header, rows))


def _compared_row(
    record: Record, name: str, gap: Mapping[str, Any] | None, scale: tuple[float, float]
) -> str:
    verdict, found = record["verdict"], record["removals"][name]
    best = ' class="best"' if name == verdict["recommended"] and verdict["kind"] != "few" else ""
    bar = interval_bar(gap["difference"], gap["low"], gap["high"], scale) if gap else ""
    text = f"{points(gap['difference'])}<br><small>{bounds(gap)}</small>" if gap else ""
    share = share_estimate(found["areas"][record["criterion"]])
    return (
        f"<tr{best}>{head(record, name, found['summary'])}{share}"
        f'<td>{bar}</td><td class="number">{text}</td><td>{escape(_judged(record, name, gap))}</td></tr>'
    )


def _judged(record: Record, name: str, gap: Mapping[str, Any] | None) -> str:
    verdict = record["verdict"]
    take = "; take this one" if name == verdict["recommended"] and verdict["kind"] == "tie" else ""
    if record["removals"][name]["shows_hidden"]:
        return "no candidate: shows what it hides"
    if gap is None:
        return ("leads" if len(verdict["tied"]) > 1 else "best") + take
    if name not in verdict["tied"]:
        return "worse"
    if gap["images_needed"]:
        return f"not told apart (some {rounded(gap['images_needed'])} images might do){take}"
    return f"not told apart{take}"


def curves(record: Record) -> str:
    """Return a chart per segmentation and metric, and the areas under the curves."""
    pairs = [(one, metric) for one in record["segmentations"] for metric in record["metrics"]]
    charts = "\n".join(_chart(record, metric, segmentation) for segmentation, metric in pairs)
    legend = "".join(f"<li>{style_of(record, name)[1]}{escape(name)}</li>" for name in record["removals"])
    note = "Segments are hidden in random order. Bands are intervals over images."
    if record["labels"] != "of the data":
        note += " The data has no labels: the model's answer for the whole image stands in for them."
    return section(
        "curves",
        "As more and more is hidden",
        f"<p>{note}</p>",
        f'<ul class="legend">{legend}</ul>',
        f'<div class="charts">\n{charts}\n</div>',
        _areas(record),
    )


def _chart(record: Record, metric: str, segmentation: str) -> str:
    lines = {}
    for name, each in record["removals"].items():
        found = each["curves"][metric][segmentation]
        lines[name] = Line(style_of(record, name)[0], found["value"], found["low"], found["high"])
    title = METRIC_WORDS[metric][0].upper() + METRIC_WORDS[metric][1:]
    title += f", {segmentation}" if len(record["segmentations"]) > 1 else ""
    drawing = line_chart(title, record["fractions"], lines, None if metric == "class-entropy" else 1.0)
    say = f"<figcaption>{_METRICS_SAY[metric]}</figcaption>"
    return f"<figure>\n<h3>{escape(title)}</h3>\n{drawing}\n{say}\n</figure>"


def _areas(record: Record) -> str:
    header = ("removal", *(METRIC_WORDS[metric] for metric in record["metrics"]))
    rows = [
        f"<tr>{head(record, name)}{''.join(map(estimate, each['areas'].values()))}</tr>"
        for name, each in record["removals"].items()
    ]
    caption = "Means of the points of the curves (areas under them), with intervals. Higher is better."
    return table(caption, header, rows)


def holes(record: Record) -> str:
    """Return the classes that holes are taken for, per removal."""
    low, high = (percent(share, 0) for share in record["mistaken_at"])
    intro = (
        f"With {low} to {high} hidden: classes that the model predicts significantly more often than for "
        "whole images. They are what holes look like to the model, or what it falls back on without details."
    )
    parts = "\n".join(_holes_of(record, name) for name in record["removals"])
    return section(
        "holes", "What holes are taken for", f"<p>{intro}</p>", f'<div class="holes">\n{parts}\n</div>'
    )


def _holes_of(record: Record, name: str) -> str:
    rows = list(map(_hole, record["removals"][name]["mistaken"]))
    heading = f"<h3>{style_of(record, name)[1]}{escape(name)}</h3>"
    if not rows:
        return f"<div>{heading}\n<p>No class stands out.</p></div>"
    header = ("class", "answers", "images", "share", "of whole images")
    more = table("", header, rows[5:]) if rows[5:] else ""
    more = f"<details><summary>{len(rows) - 5} more</summary>\n{more}</details>" if more else ""
    return f"<div>{heading}\n{table('', header, rows[:5])}{more}</div>"


def _hole(each: Mapping[str, Any]) -> str:
    cells = (each["count"], each["images"], percent(each["share"]), percent(each["whole"]))
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(each["name"])}</th>{numbers}</tr>'


def shape(record: Record) -> str:
    """Return what the shape of a hole tells, or why that was not measured."""
    found = record["shape"] or {"why_not": record["notes"]["shape"]}
    if "why_not" in found:
        return _not_measured("shape", "Mask shape", found["why_not"])
    intro = (
        "If the object is hidden, does the shape of the hole tell the model what was there? Then it would "
        "often be right without the object. If as much is hidden elsewhere (the hole cut into quarters "
        "that change places) it should be right; where it is not, the paint disturbs. So the difference of "
        f"the two should be large. Of {found['images']} images with a mask {found['right']} count: an object "
        "is in view, and the model is right about the whole image."
    )
    if found["labels"] != "of the data":
        intro += " There are no labels: right is what the model says of the whole image."
    header = ("removal", "right without the object", "right with as much hidden elsewhere", "difference")
    header = (*header, f"less that of {escape(record['verdict']['recommended'])}")
    rows = [_shape_row(record, name, each) for name, each in found["removals"].items()]
    return section("shape", "Mask shape", f"<p>{intro}</p>", table("With intervals.", header, rows))


def _shape_row(record: Record, name: str, each: Mapping[str, Any]) -> str:
    cells = "".join(share_estimate(each[key]) for key in ("hidden", "broken", "difference"))
    lead, text = each.get("lead"), ""
    if lead:
        turned = {"low": -lead["high"], "high": -lead["low"]}
        text = f"{points(-lead['value'])}<br><small>{bounds(turned)}</small>"
    return f'<tr>{head(record, name)}{cells}<td class="number">{text}</td></tr>'


def linearity(record: Record) -> str:
    """Return how far answers to patches add up, or why that was not measured."""
    found = record["linearity"]
    if found is None:
        return _not_measured("linearity", "Linearity", record["notes"]["linearity"])
    intro = (
        "Explanations add up the contributions of parts. That suits a model the better, the nearer the sum "
        f"of its {found['of']} for single patches, all else hidden, comes to its {found['of']} for the whole "
        "image. Cosine: 1 if both point the same way. Distance, in lengths of the answer for the whole "
        "image: 0 if both are the same; a sum of many answers is long of itself, so the cosine says more. "
        f"Measured on {found['images']} images."
    )
    tables = [_linearity_table(record, patch, each) for patch, each in found["patches"].items()]
    return section("linearity", "Linearity", f"<p>{intro}</p>", *tables)


def _linearity_table(record: Record, patch: str, found: Mapping[str, Any]) -> str:
    rows = [
        f"<tr>{head(record, name)}{estimate(each['cosine'])}{estimate(each['l2'])}</tr>"
        for name, each in found.items()
    ]
    header: Sequence[str] = ("removal", "cosine (higher is better)", "distance (lower is better)")
    return table(f"Patches of {patch} × {patch} pixels, with intervals.", header, rows)


def _not_measured(key: str, title: str, why: str) -> str:
    return section(key, title, f"<p>Not measured: {escape(why)}.</p>")


_STYLES = 6  # of lines, in the style sheet


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
