"""What was found of removal operators: how far each can be trusted, how each ranks methods, who agrees."""

from __future__ import annotations

from collections.abc import Sequence

from layermask.metrics.estimates import means
from layermask.metrics.registry import METRICS
from layermask.render.table import Cell, Table
from layermask.studies.operators.figure import sheet as sheet
from layermask.studies.operators.found import BETTER, Found, found
from layermask.studies.operators.found import words as words
from layermask.studies.operators.study import OF_METHODS, OF_REMOVALS
from layermask.studies.registry import Columns, Content


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the measures of the removals, the rankings of the methods, and the removals' agreement."""
    each = found(columns, content)
    return [_trust(each), _rankings(each), _agreement(each)]


def _trust(each: list[Found]) -> Table:
    rows: list[Sequence[Cell]] = []
    for one in each:
        measures = [*map(one.of_removals, OF_REMOVALS), one.stability()]
        for number, removal in enumerate(one.removals):
            rows.append((one.segmentation, removal, one.images, *(values[number] for values in measures)))
    header = ("segmentation", "removal", "images", *BETTER)
    return Table("trust", "Removal operators, and 95 % intervals over images", header, rows, BETTER)


def _rankings(each: list[Found]) -> Table:
    rows: list[Sequence[Cell]] = []
    for one in each:
        measures = {
            (method, measure): means(one.values(method, measure))
            for method in one.methods
            for measure in OF_METHODS
        }
        for number, removal in enumerate(one.removals):
            for place, method in enumerate(one.methods):
                rank = int(one.ranks[place, number]) if one.images else "-"
                values = [measures[method, measure][number] for measure in OF_METHODS]
                rows.append((one.segmentation, removal, method, rank, *values))
    header = ("segmentation", "removal", "method", "rank", *OF_METHODS)
    better = {name: METRICS[name].higher_is_better for name in OF_METHODS}
    return Table("methods", "Methods, ranked by their mean SRG under each removal", header, rows, better)


def _agreement(each: list[Found]) -> Table:
    rows = [
        (one.segmentation, removal, *map(float, taus))
        for one in each
        for removal, taus in zip(one.removals, one.agreement(), strict=True)
    ]
    header = ("segmentation", "removal", *each[0].removals)
    return Table("agreement", "Kendall's tau of the rankings by two removals", header, rows)
