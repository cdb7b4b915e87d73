"""What was found of LIME: means with intervals, differences between removals, and the paper's Table 2."""

from __future__ import annotations

from collections.abc import Sequence

from layermask.metrics.estimates import differences, means
from layermask.render.table import Cell, Table
from layermask.studies.lime.figure import sheet as sheet
from layermask.studies.lime.scores import BETTER, scores
from layermask.studies.lime.words import words as words
from layermask.studies.registry import Columns, Content


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the means with their intervals, the paired differences, and the means as in Table 2."""
    tables = [_means(columns, content), _as_in_the_paper(columns, content)]
    if len(content["settings"]["removals"]) > 1:
        tables.insert(1, _differences(columns, content))
    return tables


def _means(columns: Columns, content: Content) -> Table:
    rows: list[Sequence[Cell]] = []
    for segmentation, measures in scores(columns, content).items():
        found = [means(values) for values in measures.values()]
        for number, removal in enumerate(content["settings"]["removals"]):
            images = len(measures["alignment"])
            rows.append((segmentation, removal, images, *(each[number] for each in found)))
    header = ("segmentation", "removal", "images", *BETTER)
    return Table("means", "Means and 95 % intervals over images", header, rows, BETTER)


def _differences(columns: Columns, content: Content) -> Table:
    first, *others = content["settings"]["removals"]
    rows: list[Sequence[Cell]] = []
    for segmentation, measures in scores(columns, content).items():
        found = [differences(values) for values in measures.values()]
        for number, removal in enumerate(others):
            rows.append((segmentation, f"{removal} - {first}", *(each[number] for each in found)))
    title = f"Differences from {first} on the same images"
    return Table("differences", title, ("segmentation", "removals", *BETTER), rows, BETTER)


def _as_in_the_paper(columns: Columns, content: Content) -> Table:
    found = {
        f"{name} {segmentation}": [each.value for each in means(measures[name])]
        for name in BETTER
        for segmentation, measures in scores(columns, content).items()
    }
    removals = content["settings"]["removals"]
    rows = [(removal, *(each[number] for each in found.values())) for number, removal in enumerate(removals)]
    better = {title: BETTER[title.partition(" ")[0]] for title in found}
    return Table("table2", "Means, as in the paper's Table 2", ("removal", *found), rows, better)
