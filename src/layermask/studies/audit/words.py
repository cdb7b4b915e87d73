"""The verdict in words, from the record of an audit alone: the page and the command say the same."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from layermask.render.words import Points, Share, listed, percent, rounded, with_bounds
from layermask.studies.audit.verdict import FEWEST
from layermask.studies.segments.report import LABELS

Record = Mapping[str, Any]

USUAL = ("greyout", "blackout")
"""What most tools paint; the verdict says how these did."""


def headline(record: Record) -> str:
    verdict, count = record["verdict"], record["images"]
    if verdict["kind"] == "few":
        return f"{count} images are too few to recommend a removal: give {FEWEST} or more"
    if verdict["kind"] == "clear":
        return f"Hide parts of images by {verdict['recommended']}"
    tied = listed(verdict["tied"])
    return f"{tied} cannot be told apart with these {count} images: take {verdict['recommended']}"


def reasons(record: Record) -> list[str]:
    """Return what to take, what was measured, how certain it is, what is tied: a paragraph each."""
    verdict = record["verdict"]
    if not verdict["comparisons"]:
        return [f"{verdict['leader']} is the only one that does not show what it hides.", meaning(record)]
    if verdict["kind"] == "few":
        return [_measured(record), "Intervals from so few images are not reliable. They rule nothing out."]
    if verdict["kind"] == "clear":
        return [meaning(record), _measured(record), _certainty(record)]
    ruled_out = [_certainty(record)] if len(verdict["tied"]) <= len(verdict["comparisons"]) else []
    return [_tie_break(verdict), meaning(record), _measured(record), *ruled_out, _tie(record)]


def _measured(record: Record) -> str:
    verdict = record["verdict"]
    gap = min(verdict["comparisons"], key=lambda each: each["difference"])
    leader, other = verdict["leader"], gap["removal"]
    return (
        "Averaged over all shares hidden, from 0 to 100 % of the segments, the model keeps its prediction "
        f"for the whole image in {percent(kept(record, leader))} of the cases under {leader}, and in "
        f"{percent(kept(record, other))} under {other}, the next best. The difference is {_gap(gap)}."
    )


def _certainty(record: Record) -> str:
    verdict = record["verdict"]
    told = [each["removal"] for each in verdict["comparisons"] if each["removal"] not in verdict["tied"]]
    count = len(verdict["comparisons"])
    others = "each of the other candidates" if len(told) == count > 1 else listed(told)
    level = f" Each interval is at {percent(verdict['level'], 2)}, so that all hold together."
    return (
        f"The confidence is {percent(record['level'], 0)} or more: every removal was tested with the same "
        f"{record['images']} images, and the interval of the difference to {others} lies above 0."
        f"{level if count > 1 else ''}"
    )


def _tie(record: Record) -> str:
    leader = record["verdict"]["leader"]
    gaps = [each for each in record["verdict"]["comparisons"] if each["removal"] in record["verdict"]["tied"]]
    return " ".join(_tied(leader, each) for each in gaps)


def _tied(leader: str, gap: Mapping[str, Any]) -> str:
    if gap["low"] == gap["high"] == 0:
        return f"{leader} and {gap['removal']} keep equally many predictions for every image."
    chance = f"The difference between {leader} and {gap['removal']}, {_gap(gap)}, may be due to chance."
    if gap["images_needed"] is None:
        return f"{chance} So small a difference would not show with 100,000 images either."
    needed = rounded(gap["images_needed"])
    return f"{chance} About {needed} images might settle it, if it is as large as it is here."


def _tie_break(verdict: Mapping[str, Any]) -> str:
    text = f"{verdict['recommended']} is recommended because {verdict['because']}."
    if verdict["cheapest"]:
        text += f" If speed matters, take {verdict['cheapest']}: it only writes one colour."
    return text


def leading(record: Record) -> str:
    """Return the recommended removal, or the leader where none is recommended."""
    return record["verdict"]["recommended"] or record["verdict"]["leader"]


def meaning(record: Record) -> str:
    """Return what the recommended removal is, or the leader where none is recommended."""
    name = leading(record)
    found = record["removals"][name]
    python = f" In Python: layermask.{found['operator']}." if found["operator"] else ""
    return f"Under {name} hidden pixels become {found['summary']}.{python}"


def remarks(record: Record) -> list[str]:
    """Return what else to know before acting on the verdict, a line each."""
    few = record["verdict"]["kind"] == "few"
    usual = [line for name in USUAL for line in _usual(record, name)]
    against = [*_own_mistakes(record), *_against(record), *_shape_against(record)]
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
    behind = ""
    if gap is not None and name not in verdict["tied"]:
        behind = f"; {verdict['leader']} is ahead by {_gap(gap)}"
    share = percent(kept(record, name))
    return [
        f"{name}, as many tools paint, keeps {share} of the predictions{behind}.{_mistaken(record, name)}"
    ]


def _own_mistakes(record: Record) -> list[str]:
    best = leading(record)
    found = _mistaken(record, best)
    return [f"{best} biases the model, too.{found}"] if found else []


def _mistaken(record: Record, name: str) -> str:
    found = record["removals"][name]["mistaken"]
    if not found:
        return ""
    share, usual = (sum(each[key] for each in found) for key in ("share", "whole"))
    low, high = record["mistaken_at"]
    classes = [each["name"] for each in found[:3]]
    more = [f"{len(found) - 3} more"] if len(found) > 3 else []
    return (
        f" With {percent(low, 0)} to {percent(high, 0)} hidden, {percent(share)} of its predictions are "
        f"{listed(classes + more)} ({percent(usual)} of those for whole images)."
    )


def _against(record: Record) -> list[str]:
    """Say where another removal beats the recommended one by a secondary metric."""
    best, lines = leading(record), []
    others = [name for name in record["candidates"] if name != best]
    for metric in record["metrics"]:
        gaps = {name: record["removals"][name]["differences"][metric] for name in others}
        better = [name for name, gap in gaps.items() if gap["high"] < 0]
        if better and metric != record["criterion"]:
            lines.append(f"By {LABELS[metric]}, {listed(better)} did better than {best}.")
    return lines


def _shape_against(record: Record) -> list[str]:
    found = (record["shape"] or {}).get("removals", {})
    better = [name for name, each in found.items() if "lead" in each and each["lead"]["high"] < 0]
    best = leading(record)
    return [f"By mask shape, {listed(better)} did better than {best}; see below."] if better else []


def _leaks(record: Record) -> list[str]:
    names = [name for name, each in record["removals"].items() if each["shows_hidden"]]
    return [
        f"{name} shows the model some of what it hides. It therefore cannot be recommended, although it "
        f"keeps {percent(kept(record, name))} of the predictions."
        for name in names
    ]


def kept(record: Record, name: str) -> float:
    return record["removals"][name]["areas"][record["criterion"]]["value"]


def lead(gap: Mapping[str, Any]) -> Points:
    """Return by how much the leader is ahead in a comparison."""
    return Points(gap["difference"], gap["low"], gap["high"])


def _gap(gap: Mapping[str, Any]) -> str:
    number, interval = with_bounds(lead(gap))
    return f"{number} points (interval {interval})"


def share(value: float) -> Share:
    """Return a share that has no interval."""
    return Share(value, nan, nan)
