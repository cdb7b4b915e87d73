"""What was found of mask shapes: accuracies with intervals, over all images and by class."""

from __future__ import annotations

from layermask.metrics.estimates import means
from layermask.metrics.shape_bias import ShapeBias
from layermask.render.table import Table, class_names
from layermask.studies.registry import Columns, Content
from layermask.studies.shape_bias.figure import sheet as sheet
from layermask.studies.shape_bias.found import BETTER, HITS, biases, common_classes, has_classes, values
from layermask.studies.shape_bias.found import words as words


def summarise(columns: Columns, content: Content, hits: int = HITS) -> list[Table]:
    """Return the accuracies and, where labels are known, those of classes.

    Of the classes with more than `hits` images that the model gets right when they are whole.
    """
    found = biases(columns, content)
    return [_accuracies(found), *([_by_class(found, content, hits)] if has_classes(content) else [])]


def _accuracies(found: dict[str, ShapeBias]) -> Table:
    rows = [(name, len(bias.labels), *means(values(bias))) for name, bias in found.items()]
    return Table("accuracies", "Accuracies", ("removal", "images", *BETTER), rows, BETTER)


def _by_class(found: dict[str, ShapeBias], content: Content, hits: int) -> Table:
    names, rows = class_names(content), []
    for number in common_classes(found, len(names), hits):
        for removal, bias in found.items():
            shares, counts = bias.by_class(len(names))
            rows.append((names[number], removal, int(counts[number]), *shares[number].tolist()))
    title = f"Classes with more than {hits} images that the model gets right"
    return Table("classes", title, ("class", "removal", "images", *BETTER), rows, BETTER)
