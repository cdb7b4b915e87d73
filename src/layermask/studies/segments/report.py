"""What segment removal found: areas under the curves, their paired differences, and the curves."""

from __future__ import annotations

from layermask.metrics.predictions import PREDICTION_METRICS, Rule
from layermask.render.table import Table
from layermask.studies.orders import GRADIENT, MAPS
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import measure, metrics_of, read_answers

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


def summarise(columns: Columns, content: Content, rule: Rule = "mean") -> list[Table]:
    """Return the areas under the curves by `rule`, their differences from the first removal's, the curves."""
    metrics, (first, *others) = metrics_of(content), content["settings"]["removals"]
    names, found = [NAMES[metric] for metric in metrics], read_answers(columns).by_setting()
    by_setting = {key: [measure(each, metric, rule) for metric in metrics] for key, each in found.items()}
    groups = [  # those of a removal together
        (removal, setting, [by_removal[removal] for by_removal in measured])
        for removal in (first, *others)
        for setting, measured in by_setting.items()
    ]
    areas = [(removal, *setting, *(one.area for one in measured)) for removal, setting, measured in groups]
    differences = [
        (f"{removal} - {first}", *setting, *(one.difference for one in measured if one.difference))
        for removal, setting, measured in groups
        if removal != first
    ]
    points = [
        (removal, *setting, len(one.images), f"{fraction:g}", *(each.points[k] for each in measured))
        for removal, setting, measured in groups
        for one in [found[setting]]
        for k, fraction in enumerate(one.fractions)
    ]
    title = f"Areas under the curves, {AREAS[rule]}, and 95 % intervals over images"
    paired = f"Differences of the areas from those of {first}, on the same images"
    tables = [
        Table("areas", title, (*HEADER, *names), areas, BETTER),
        Table("differences", paired, ("removals", *HEADER[1:], *names), differences, BETTER),
        Table("curves", "Curves", (*HEADER, "images", "fraction", *names), points, BETTER, on_page=False),
    ]
    return tables if others else [tables[0], tables[2]]


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
