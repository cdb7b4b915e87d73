"""All that an audit says in numbers, from the results of its experiments alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.metrics.bootstrap import Interval, mean_interval
from layermask.metrics.predictions import PREDICTION_METRICS
from layermask.metrics.shape_bias import shape_bias
from layermask.metrics.wordnet import are_imagenet
from layermask.removal.registry import REMOVALS
from layermask.studies.audit.mistaken import AT, mistaken_for
from layermask.studies.audit.verdict import Verdict, recommend
from layermask.studies.segments.answers import SegmentAnswers, read_answers
from layermask.zoo.labels import short

if TYPE_CHECKING:
    import numpy as np

Table = tuple["dict[str, np.ndarray]", dict[str, Any]]
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
    labelled = content["settings"]["labels"] == "of the data"
    answers = read_answers(columns, _metrics(labels, labelled))
    candidates = [name for name in answers.removals if not shows_hidden(name, answers)]
    if not candidates:
        raise InputError(
            f"all of {', '.join(answers.removals)} show what they hide: give --removals that do not"
        )
    places = [answers.removals.index(name) for name in candidates]
    verdict = recommend(candidates, answers.per_image()[:, places], LEVEL)
    removals = {name: _of_removal(answers, name, labels) for name in answers.removals}
    _add(removals, "areas", _areas(answers))
    _add(removals, "curves", _curves(answers))
    _add(removals, "differences", _differences(answers, verdict.recommended))
    return {
        "images": len(answers.images),
        "skipped": content["skipped"],
        "labels": content["settings"]["labels"],
        "criterion": CRITERION,
        "metrics": list(answers.metrics),
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


def _metrics(labels: Sequence[str], labelled: bool) -> tuple[str, ...]:
    """Without labels accuracy is what `unchanged` is; WordNet knows ImageNet's classes only."""
    known = {"accuracy": labelled, "wordnet-similarity": are_imagenet(labels)}
    return (CRITERION, *(name for name in PREDICTION_METRICS if name != CRITERION and known.get(name, True)))


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


def _areas(answers: SegmentAnswers) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> the mean over shares hidden and segmentations, with its interval."""
    per_metric = {
        metric: (answers.areas(metric), answers.area_interval(metric, LEVEL)) for metric in answers.metrics
    }
    return {
        name: {metric: bounded(*found, row) for metric, found in per_metric.items()}
        for row, name in enumerate(answers.removals)
    }


def _differences(answers: SegmentAnswers, recommended: str) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> the recommended one's area less this one's, with its paired interval."""
    per_metric = {metric: answers.differences(metric, recommended, LEVEL) for metric in answers.metrics}
    return {
        name: {metric: bounded(*found, row) for metric, found in per_metric.items()}
        for row, name in enumerate(answers.removals)
        if name != recommended
    }


def _curves(answers: SegmentAnswers) -> dict[str, dict[str, Any]]:
    """Return removal -> metric -> segmentation -> values and bounds at the shares hidden."""
    found: dict[str, dict[str, Any]] = {name: {} for name in answers.removals}
    for metric in answers.metrics:
        values, interval = answers.curves(metric), answers.curve_interval(metric, LEVEL)
        for row, name in enumerate(answers.removals):
            found[name][metric] = {
                segmentation: {
                    "value": values[row, column].tolist(),
                    "low": interval.low[row, column].tolist(),
                    "high": interval.high[row, column].tolist(),
                }
                for column, segmentation in enumerate(answers.segmentations)
            }
    return found


def bounded(values: Tensor, interval: Interval, row: int) -> dict[str, float]:
    low, high = (float(bound[row]) for bound in interval)
    return {"value": float(values[row]), "low": low, "high": high}


def _same_when_whole(answers: SegmentAnswers) -> int:
    """Return of how many images all removals gave the same class while nothing was hidden."""
    if answers.fractions[0] != 0:
        return 0
    return int((answers.predicted[..., 0] == answers.whole[:, None, None]).all(-1).all(-1).sum())


def _shape(columns: dict[str, np.ndarray], content: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Return the accuracies with the object hidden and elsewhere, of images right when whole, per removal."""
    names = list(dict.fromkeys(columns["removal"].tolist()))
    useful = (columns["object"] > 0) & (columns["object"] < 1)  # something is hidden, and something is left
    per_removal = {name: _shape_of(columns, useful & (columns["removal"] == name)) for name in names}
    if not per_removal[names[0]]:
        return {"why_not": f"the model gets none of the {content['images']} images with an object right"}
    differences = {name: each["values"][:, 2] for name, each in per_removal.items()}
    best = verdict.recommended
    removals = {}
    for name, each in per_removal.items():
        low, high = mean_interval(each["values"], level=LEVEL)
        means = each["values"].mean(0).tolist()
        removals[name] = {
            key: {"value": mean, "low": float(low[place]), "high": float(high[place])}
            for place, (key, mean) in enumerate(zip(("hidden", "broken", "difference"), means, strict=True))
        }
        if best in differences and name != best:
            lead = (differences[best] - differences[name])[:, None]
            removals[name]["lead"] = bounded(lead.mean(0), mean_interval(lead, level=LEVEL), 0)
    right = len(differences[names[0]])
    labels = content["settings"].get("labels", "of the data")
    return {"images": content["images"], "right": right, "labels": labels, "removals": removals}


def _shape_of(columns: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Tensor]:
    """Return, for images that are right when whole: with the object hidden, elsewhere, and the difference."""
    parts = (torch.from_numpy(columns[key][chosen]).long() for key in ("label", "whole", "hidden", "broken"))
    labels, whole, hidden, broken = parts
    if not bool((labels == whole).any()):
        return {}
    found = shape_bias(labels, whole, hidden, broken)
    return {"values": torch.stack([found.hidden.double(), found.broken.double(), found.difference], 1)}


def _linearity(columns: dict[str, np.ndarray], content: dict[str, Any]) -> dict[str, Any]:
    """Return the relative distance and the cosine of summed and whole answers, per patch size and removal."""
    patches: dict[str, dict[str, Any]] = {}
    for patch in dict.fromkeys(columns["patch"].tolist()):
        for name in dict.fromkeys(columns["removal"].tolist()):
            chosen = (columns["removal"] == name) & (columns["patch"] == patch)
            numbers = [torch.from_numpy(columns[key][chosen]).double() for key in ("l2", "cosine")]
            values = torch.stack(numbers, 1)
            interval = mean_interval(values, level=LEVEL)
            patches.setdefault(str(patch), {})[name] = {
                key: bounded(values.mean(0), interval, place) for place, key in enumerate(("l2", "cosine"))
            }
    return {"images": content["images"], "of": content["settings"]["of"], "patches": patches}
