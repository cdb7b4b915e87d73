"""What segment removal found: areas under the curves, and the curves."""

from __future__ import annotations

from collections.abc import Sequence

from layermask.evaluate.orders import GRADIENT, MAPS
from layermask.evaluate.reports.curves import Group, curves
from layermask.evaluate.reports.segments_figure import sheet as sheet
from layermask.evaluate.reports.tables import Cell, Table, common_words
from layermask.evaluate.table import Columns, Content
from layermask.metrics.predictions import Rule, area

SETTING = ("removal", "segmentation", "order", "ranking")
BETTER = {"accuracy": True, "entropy": True, "unchanged": True}


def summarise(columns: Columns, content: Content, rule: Rule = "mean") -> list[Table]:
    """Return the areas under the curves by `rule`, and the curves."""
    found = curves(columns)
    return [_areas(found, rule), _points(found)]


def _areas(groups: list[Group], rule: Rule) -> Table:
    rows = [
        (*group.setting, *(float(area(values, group.fractions, rule)) for values in group.curves.values()))
        for group in groups
    ]
    return Table("areas", "Areas under the curves", (*SETTING, *BETTER), rows, BETTER)


def _points(groups: list[Group]) -> Table:
    rows: list[Sequence[Cell]] = []
    for each in groups:
        for point, fraction in enumerate(each.fractions.tolist()):
            values = [float(each.curves[name][point]) for name in BETTER]
            rows.append((*each.setting, each.images, f"{fraction:g}", *values))
    return Table("curves", "Curves", (*SETTING, "images", "fraction", *BETTER), rows, BETTER, on_page=False)


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    lines = common_words(content)
    if content["settings"]["saliency"] == MAPS:
        lines.append("Salient orders follow the saliency maps of the data.")
    if content["settings"]["saliency"] == GRADIENT:
        lines.append("The data has no saliency maps: salient orders follow the plain model's input gradient.")
    return lines
