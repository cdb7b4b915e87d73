"""All that an audit says in numbers, from the results of its experiments alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from layermask.errors import InputError
from layermask.metrics.bootstrap import Estimate, mean_interval
from layermask.removal.registry import REMOVALS
from layermask.studies.audit.mistaken import AT, mistaken_for
from layermask.studies.audit.verdict import Verdict, recommend
from layermask.studies.protocol import OF_THE_DATA
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import SegmentAnswers, metrics_of, read_answers
from layermask.studies.shape_bias.study import biases
from layermask.zoo.labels import short

Table = tuple[Columns, Content]
"""What `read_results` returns: the columns, and what the file says of itself."""

CRITERION, LEVEL = "unchanged", 0.95


def findings(
    tables: Mapping[str, Table], labels: Sequence[str], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Return the record of an audit: plain values, for a JSON file and for the page.

    `tables`: the results of "segments" and, where they were made, "shape" and "linearity". `labels`: the
    class names. `left_out`: removals that were not measured, and why.
    """
    columns, content = tables["segments"]
    answers, metrics = read_answers(columns), _metrics(content)
    candidates = [name for name in answers.removals if not shows_hidden(name, answers)]
    if not candidates:
        raise InputError(
            f"all of {', '.join(answers.removals)} show what they hide: give --removals that do not"
        )
    places = [answers.removals.index(name) for name in candidates]
    verdict = recommend(candidates, answers.per_image()[:, places], LEVEL)
    removals = {name: _of_removal(answers, name, labels) for name in answers.removals}
    _add(removals, "areas", _areas(answers, metrics))
    _add(removals, "curves", _curves(answers, metrics))
    _add(removals, "differences", _differences(answers, metrics, verdict.best))
    return {
        "images": len(answers.images),
        "skipped": content["skipped"],
        "labels": content["settings"]["labels"],
        "criterion": CRITERION,
        "metrics": list(metrics),
        "level": LEVEL,
        "fractions": answers.fractions,
        "segmentations": answers.segmentations,
        "candidates": candidates,
        "verdict": {**asdict(verdict), "same_when_whole": _same_when_whole(answers)},
        "removals": removals,
        "left_out": dict(left_out),
        "mistaken_at": list(AT),
        "shape": _shape(*tables["shape"], verdict) if "shape" in tables else None,
        "linearity": _linearity(*tables["linearity"]) if "linearity" in tables else None,
    }


def _metrics(content: Mapping[str, Any]) -> list[str]:
    """Return the criterion, then the others; without labels accuracy is what `unchanged` is."""
    told = () if content["settings"]["labels"] == OF_THE_DATA else ("accuracy",)
    return [CRITERION, *(name for name in metrics_of(content) if name not in (CRITERION, *told))]


def shows_hidden(name: str, answers: SegmentAnswers) -> bool:
    """Whether a removal lets the model see what it hides: the table says so of its members.

    For a custom removal this is read off the answers: with everything hidden, they may not differ between
    images.
    """
    if name in REMOVALS:
        return REMOVALS[name].reads_hidden
    alone = answers.predicted[:, answers.removals.index(name), :, -1]
    return answers.fractions[-1] == 1 and len(alone.unique()) > 1


def _of_removal(answers: SegmentAnswers, name: str, labels: Sequence[str]) -> dict[str, Any]:
    known = REMOVALS.get(name)
    found = [
        {"class": each.label, "name": class_name(labels, each.label), **_without(asdict(each), "label")}
        for each in mistaken_for(answers, name, LEVEL)
    ]
    return {
        "summary": known.summary if known else "what a custom removal makes of them",
        "operator": known.operator if known else "",
        "source": known.source if known else "",
        "shows_hidden": shows_hidden(name, answers),
        "mistaken": found,
    }


def _without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def class_name(labels: Sequence[str], index: int) -> str:
    return short(labels[index]) if index < len(labels) else f"class {index}"


def _add(removals: dict[str, dict[str, Any]], key: str, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        removals[name][key] = value


def _areas(answers: SegmentAnswers, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> the mean over shares hidden and segmentations, with its interval."""
    found = {metric: answers.areas(metric, LEVEL) for metric in metrics}
    return {name: _row(found, place) for place, name in enumerate(answers.removals)}


def _differences(answers: SegmentAnswers, metrics: Sequence[str], best: str) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> the best one's area less this one's, with its paired interval."""
    found = {metric: answers.differences(metric, best, LEVEL) for metric in metrics}
    return {name: _row(found, place) for place, name in enumerate(answers.removals) if name != best}


def _row(found: Mapping[str, Estimate], *place: int) -> dict[str, Any]:
    return {name: each.at(*place).record() for name, each in found.items()}


def _curves(answers: SegmentAnswers, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> segmentation -> values and bounds at the shares hidden."""
    found = {metric: answers.curves(metric, LEVEL) for metric in metrics}
    return {
        name: {
            metric: {
                segmentation: each.at(row, column).record()
                for column, segmentation in enumerate(answers.segmentations)
            }
            for metric, each in found.items()
        }
        for row, name in enumerate(answers.removals)
    }


def _same_when_whole(answers: SegmentAnswers) -> int:
    """Return of how many images all removals gave the same class while nothing was hidden."""
    return int((answers.whole == answers.whole[:, :1, :1]).flatten(1).all(1).sum())


def _shape(columns: Columns, content: Content, verdict: Verdict) -> dict[str, Any]:
    """Return the accuracies with the object hidden and elsewhere, of images right when whole, per removal."""
    found = biases(columns, content)
    first, best = next(iter(found.values())), verdict.best
    if not len(first.labels):
        return {"why_not": f"the model gets none of the {content['images']} images with an object right"}
    removals = {}
    for name, each in found.items():
        numbers = each.interval(level=LEVEL)
        removals[name] = {
            key: numbers.at(place).record() for place, key in enumerate(("hidden", "broken", "difference"))
        }
        if best in found and name != best:
            lead = found[best].difference - each.difference
            removals[name]["lead"] = mean_interval(lead, level=LEVEL).record()
    labels = content["settings"].get("labels", OF_THE_DATA)
    return {"images": content["images"], "right": len(first.labels), "labels": labels, "removals": removals}


def _linearity(columns: Columns, content: Content) -> dict[str, Any]:
    """Return the relative distance and the cosine of summed and whole answers, per patch size and removal."""
    patches: dict[str, dict[str, Any]] = {}
    for patch in dict.fromkeys(columns["patch"].tolist()):
        for name in dict.fromkeys(columns["removal"].tolist()):
            chosen = (columns["removal"] == name) & (columns["patch"] == patch)
            patches.setdefault(str(patch), {})[name] = {
                key: mean_interval(torch.from_numpy(columns[key][chosen]), level=LEVEL).record()
                for key in ("l2", "cosine")
            }
    return {"images": content["images"], "of": content["settings"]["of"], "patches": patches}
