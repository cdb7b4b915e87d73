"""What segment removal found: areas under the curves, their paired differences, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layermask.metrics.predictions import PREDICTION_METRICS, Rule
from layermask.render.table import Cell, Table
from layermask.studies.orders import GRADIENT, MAPS
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import Measured, Setting, measure, metrics_of, read_answers

HEADER = ("removal", "segmentation", "order", "ranking")
NAMES = {
    "accuracy": "accuracy",
    "class-entropy": "entropy",
    "wordnet-similarity": "wordnet",
    "unchanged": "unchanged",
}
"""Of the metrics, in tables."""
BETTER = {name: PREDICTION_METRICS[metric].higher_is_better for metric, name in NAMES.items()}
RULES = {"mean": "the means of their points", "trapezoid": "by trapezoids"}


class Group(NamedTuple):
    """A removal under a setting: what was measured by metric, at `fractions` of so many `images`."""

    removal: str
    setting: Setting
    images: int
    fractions: list[float]
    measured: dict[str, Measured]

    @property
    def keys(self) -> tuple[str, ...]:
        return self.removal, *self.setting


def summarise(columns: Columns, content: Content, rule: Rule = "mean") -> list[Table]:
    """Return the areas under the curves by `rule`, their differences from the first removal's, the curves."""
    metrics = metrics_of(content)
    groups = _groups(columns, content, metrics, rule)
    tables = [_areas(groups, metrics, rule), _points(groups, metrics)]
    if len(content["settings"]["removals"]) > 1:
        tables.insert(1, _differences(groups, metrics, content["settings"]["removals"][0]))
    return tables


def _groups(columns: Columns, content: Content, metrics: Sequence[str], rule: Rule) -> list[Group]:
    """Return the groups, those of a removal together."""
    groups = []
    for setting, found in read_answers(columns).by_setting().items():
        measured = {metric: measure(found, metric, rule) for metric in metrics}
        for removal in found.removals:
            mine = {metric: by_removal[removal] for metric, by_removal in measured.items()}
            groups.append(Group(removal, setting, len(found.images), found.fractions, mine))
    removals = content["settings"]["removals"]
    return sorted(groups, key=lambda group: removals.index(group.removal))


def _named(metrics: list[str]) -> list[str]:
    return [NAMES[metric] for metric in metrics]


def _areas(groups: list[Group], metrics: list[str], rule: Rule) -> Table:
    rows = [(*each.keys, *(each.measured[name].area for name in metrics)) for each in groups]
    title = f"Areas under the curves, {RULES[rule]}, and 95 % intervals over images"
    return Table("areas", title, (*HEADER, *_named(metrics)), rows, BETTER)


def _differences(groups: list[Group], metrics: list[str], first: str) -> Table:
    rows: list[Sequence[Cell]] = []
    for each in groups:
        found = [each.measured[name].difference for name in metrics]
        if numbers := [number for number in found if number is not None]:
            rows.append((f"{each.removal} - {first}", *each.setting, *numbers))
    title = f"Differences of the areas from those of {first}, on the same images"
    return Table("differences", title, ("removals", *HEADER[1:], *_named(metrics)), rows, BETTER)


def _points(groups: list[Group], metrics: list[str]) -> Table:
    rows: list[Sequence[Cell]] = []
    for each in groups:
        for point, fraction in enumerate(each.fractions):
            values = [each.measured[name].points[point] for name in metrics]
            rows.append((*each.keys, each.images, f"{fraction:g}", *values))
    return Table(
        "curves", "Curves", (*HEADER, "images", "fraction", *_named(metrics)), rows, BETTER, on_page=False
    )


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    lines = common_words(content)
    if content["settings"]["saliency"] == MAPS:
        lines.append("Salient orders follow the saliency maps of the data.")
    if content["settings"]["saliency"] == GRADIENT:
        lines.append("The data has no saliency maps: salient orders follow the plain model's input gradient.")
    if "wordnet-similarity" not in metrics_of(content):
        lines.append("WordNet similarity is left out: the model's classes are not named as ImageNet's 1,000.")
    return lines
