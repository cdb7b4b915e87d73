"""The verdict in words, from the record of an audit alone: the page and the command say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layermask.render.html import percent
from layermask.studies.audit.verdict import FEWEST

Record = Mapping[str, Any]

USUAL = ("greyout", "blackout")
"""What most tools paint; the verdict says how these did."""
METRIC_WORDS = {
    "unchanged": "answers kept",
    "accuracy": "accuracy",
    "class-entropy": "class entropy",
    "wordnet-similarity": "WordNet similarity",
}


def headline(record: Record) -> str:
    verdict, count = record["verdict"], record["images"]
    if verdict["kind"] == "few":
        return f"{count} images are too few to recommend a removal: give {FEWEST} or more"
    if verdict["kind"] == "clear":
        return f"Hide parts of images by {verdict['recommended']}"
    tied = listed(verdict["tied"])
    return f"{tied} cannot be told apart with these {count} images: take {verdict['recommended']}"


def reasons(record: Record) -> list[str]:
    """Return what to take, what was measured, how sure it is, what is tied: a paragraph each."""
    verdict = record["verdict"]
    if not verdict["comparisons"]:
        return [f"{verdict['leader']} is the only one that does not show what it hides.", meaning(record)]
    if verdict["kind"] == "few":
        return [_measured(record), "An interval from so few images cannot be trusted, and rules nothing out."]
    if verdict["kind"] == "clear":
        return [meaning(record), _measured(record), _certainty(record)]
    ruled_out = [_certainty(record)] if len(verdict["tied"]) <= len(verdict["comparisons"]) else []
    return [_way_out(verdict), meaning(record), _measured(record), *ruled_out, _tie(record)]


def _measured(record: Record) -> str:
    verdict = record["verdict"]
    gap = min(verdict["comparisons"], key=lambda each: each["difference"])
    leader, other = verdict["leader"], gap["removal"]
    return (
        "Over all shares hidden, from 0 to 100 % of the segments, the model keeps its answer for the whole "
        f"image in {percent(kept(record, leader))} of the cases under {leader}, and in "
        f"{percent(kept(record, other))} under {other}, the next best: {fewer(gap)}."
    )


def _certainty(record: Record) -> str:
    verdict = record["verdict"]
    told = [each["removal"] for each in verdict["comparisons"] if each["removal"] not in verdict["tied"]]
    count = len(verdict["comparisons"])
    others = "each of the other candidates" if len(told) == count > 1 else listed(told)
    together = f", at {percent(verdict['level'], 2)} each, so that they hold together" if count > 1 else ""
    return (
        f"How sure: {percent(record['level'], 0)} or more. The same {record['images']} images were asked "
        f"about under every removal, and the interval of the difference to {others} lies above 0{together}."
    )


def _tie(record: Record) -> str:
    leader = record["verdict"]["leader"]
    gaps = [each for each in record["verdict"]["comparisons"] if each["removal"] in record["verdict"]["tied"]]
    return " ".join(
        f"The difference between {leader} and {each['removal']}, {points(each['difference'])} points "
        f"({bounds(each)}), may be chance{_needed(each)}."
        for each in gaps
    )


def _needed(gap: Mapping[str, Any]) -> str:
    if gap["low"] == gap["high"] == 0:
        return ": for every image they keep equally many answers"
    if gap["images_needed"] is None:
        return "; so small a difference would not show with 100,000 images either"
    return f"; about {rounded(gap['images_needed'])} images might settle it, if it is as large as here"


def _way_out(verdict: Mapping[str, Any]) -> str:
    text = f"Why {verdict['recommended']}: {verdict['because']}."
    if verdict["cheapest"]:
        text += f" Where time counts take {verdict['cheapest']}: it only writes one colour."
    return text


def meaning(record: Record) -> str:
    """Return what the recommended removal is."""
    name = record["verdict"]["recommended"]
    found = record["removals"][name]
    python = f" In Python: layermask.{found['operator']}." if found["operator"] else ""
    return f"Under {name} hidden pixels become {found['summary']}.{python}"


def remarks(record: Record) -> list[str]:
    """Return what else one has to know before acting on the verdict, a line each."""
    few = record["verdict"]["kind"] == "few"
    usual = [line for name in USUAL for line in _usual(record, name)]
    against = [*_own_holes(record), *_against(record), *_shape_against(record)]
    return [
        *([] if few else usual + against),
        *_leaks(record),
        *(f"{name} was left out: {why.removesuffix('.')}." for name, why in record["left_out"].items()),
    ]


def _usual(record: Record, name: str) -> list[str]:
    verdict = record["verdict"]
    if name not in record["removals"] or name == verdict["recommended"]:
        return []
    gap = next((each for each in verdict["comparisons"] if each["removal"] == name), None)
    behind = "" if gap is None or name in verdict["tied"] else f", {fewer(gap, verdict['leader'])}"
    share = percent(kept(record, name))
    return [f"{name}, as many tools paint, keeps {share} of the answers{behind}.{_holes(record, name)}"]


def _own_holes(record: Record) -> list[str]:
    best = record["verdict"]["recommended"]
    found = _holes(record, best)
    return [f"{best} is not free of it.{found}"] if found else []


def _holes(record: Record, name: str) -> str:
    found = record["removals"][name]["mistaken"]
    if not found:
        return ""
    share, usual = (sum(each[key] for each in found) for key in ("share", "whole"))
    low, high = record["mistaken_at"]
    classes = [each["name"] for each in found[:3]]
    more = [f"{len(found) - 3} more"] if len(found) > 3 else []
    return (
        f" With {percent(low, 0)} to {percent(high, 0)} hidden, {percent(share)} of its answers are "
        f"{listed(classes + more)} ({percent(usual)} of those for whole images)."
    )


def _against(record: Record) -> list[str]:
    """Say where another removal beats the recommended one by a secondary metric."""
    best, lines = record["verdict"]["recommended"], []
    others = [name for name in record["candidates"] if name != best]
    for metric in record["metrics"]:
        gaps = {name: record["removals"][name]["differences"][metric] for name in others}
        better = [name for name, gap in gaps.items() if gap["high"] < 0]
        if better and metric != record["criterion"]:
            lines.append(f"By {METRIC_WORDS[metric]} {best} is behind {listed(better)}.")
    return lines


def _shape_against(record: Record) -> list[str]:
    found = (record["shape"] or {}).get("removals", {})
    better = [name for name, each in found.items() if "lead" in each and each["lead"]["high"] < 0]
    best = record["verdict"]["recommended"]
    return [f"By mask shape {best} is behind {listed(better)}; see below."] if better else []


def _leaks(record: Record) -> list[str]:
    names = [name for name, each in record["removals"].items() if each["shows_hidden"]]
    return [
        f"{name} shows the model some of what it hides, so that the {percent(kept(record, name))} of answers "
        "it keeps are no merit. It is no candidate."
        for name in names
    ]


def kept(record: Record, name: str) -> float:
    return record["removals"][name]["areas"][record["criterion"]]["value"]


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def points(difference: float) -> str:
    """Return a difference of shares in points of a hundred, with its sign: "+12.3"."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def bounds(interval: Mapping[str, float]) -> str:
    return f"{points(interval['low'])} to {points(interval['high'])}"


def fewer(gap: Mapping[str, float], leader: str = "") -> str:
    """Return a gap from the leader, which is 0 or more: "6.1 points fewer (interval 0.2 to 12.0)"."""
    low, high = (f"{100 * gap[key]:.1f}".replace("-", "−") for key in ("low", "high"))
    than = f" than {leader}" if leader else ""
    return f"{100 * gap['difference']:.1f} points fewer{than} (interval {low} to {high})"


def rounded(count: int) -> str:
    """Return a number to two digits: an estimate has no more."""
    return f"{round(count, 2 - len(str(count))):,}" if count >= 100 else str(count)
