"""What segment removal found: areas under the curves, their paired differences, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layermask.metrics.predictions import PREDICTION_METRICS, Rule
from layermask.render.table import Table
from layermask.studies.orders import GRADIENT, MAPS
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import Measured, Setting, measure, metrics_of, predictions

HEADER = ("removal", "segmentation", "order", "ranking")
NAMES = {
    "accuracy": "accuracy",
    "class-entropy": "entropy",
    "wordnet-similarity": "wordnet",
    "unchanged": "unchanged",
}
"""The metrics as columns of tables."""
LABELS = {
    "accuracy": "accuracy",
    "class-entropy": "class entropy",
    "wordnet-similarity": "WordNet similarity",
    "unchanged": "unchanged predictions",
}
"""The metrics in figures and on pages."""
BETTER = {name: PREDICTION_METRICS[metric].higher_is_better for metric, name in NAMES.items()}
AREAS = {"mean": "the means of their points", "trapezoid": "by trapezoids"}


class Group(NamedTuple):
    """A removal under a setting: what was measured by each metric, at `fractions` of so many `images`."""

    removal: str
    setting: Setting
    images: int
    fractions: list[float]
    measured: list[Measured]


def summarise(columns: Columns, content: Content, rule: Rule = "mean") -> list[Table]:
    """Return the areas under the curves by `rule`, their differences from the first removal's, the curves."""
    metrics, (first, *others) = metrics_of(content), content["settings"]["removals"]
    groups, names = _groups(columns, content, metrics, rule), [NAMES[metric] for metric in metrics]
    areas = [(each.removal, *each.setting, *(one.area for one in each.measured)) for each in groups]
    differences = [
        (
            f"{each.removal} - {first}",
            *each.setting,
            *(one.difference for one in each.measured if one.difference),
        )
        for each in groups
        if each.removal != first
    ]
    points = [
        (each.removal, *each.setting, each.images, f"{fraction:g}", *(one.points[k] for one in each.measured))
        for each in groups
        for k, fraction in enumerate(each.fractions)
    ]
    title = f"Areas under the curves, {AREAS[rule]}, and 95 % intervals over images"
    paired = f"Differences of the areas from those of {first}, on the same images"
    tables = [
        Table("areas", title, (*HEADER, *names), areas, BETTER),
        Table("differences", paired, ("removals", *HEADER[1:], *names), differences, BETTER),
        Table("curves", "Curves", (*HEADER, "images", "fraction", *names), points, BETTER, on_page=False),
    ]
    return tables if others else [tables[0], tables[2]]


def _groups(columns: Columns, content: Content, metrics: Sequence[str], rule: Rule) -> list[Group]:
    """Return the groups, those of a removal together."""
    groups = []
    for setting, found in predictions(columns, content).items():
        by_metric = [measure(found, metric, rule) for metric in metrics]
        for removal, one in found.items():
            measured = [by_removal[removal] for by_removal in by_metric]
            groups.append(Group(removal, setting, len(one.predicted), one.fractions.tolist(), measured))
    removals = content["settings"]["removals"]
    return sorted(groups, key=lambda group: removals.index(group.removal))


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    lines = common_words(content)
    if content["settings"]["saliency"] == MAPS:
        lines.append("Salient orders follow the saliency maps of the data.")
    if content["settings"]["saliency"] == GRADIENT:
        lines.append("The data has no saliency maps: salient orders follow the plain model's input gradient.")
    if "wordnet-similarity" not in metrics_of(content):
        lines.append("WordNet similarity is left out: the names of the model's classes are not ImageNet's.")
    return lines
