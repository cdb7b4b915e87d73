"""What was found of mask shapes: accuracies with intervals, over all images and by class."""

from __future__ import annotations

import numpy as np
import torch

from layermask.metrics.bootstrap import means
from layermask.metrics.registry import METRICS
from layermask.metrics.shape_bias import ShapeBias
from layermask.render.table import Table
from layermask.studies.protocol import OF_THE_DATA, class_names, common_words
from layermask.studies.registry import Columns, Content
from layermask.studies.shape_bias.study import biases

HITS = 10
"""The paper's: classes count that the model gets right more often than this when the picture is whole."""


def summarise(columns: Columns, content: Content, hits: int = HITS) -> list[Table]:
    """Return the accuracies and, where labels are known, those of each class.

    Classes count that have more than `hits` images that the model gets right when they are whole.
    """
    found = biases(columns, content)
    return [_accuracies(found), *([_by_class(found, content, hits)] if has_classes(content) else [])]


def _accuracies(found: dict[str, ShapeBias]) -> Table:
    rows = [(name, len(bias.labels), *means(bias.values())) for name, bias in found.items()]
    return Table("accuracies", "Accuracies", ("removal", "images", *BETTER), rows, BETTER)


def _by_class(found: dict[str, ShapeBias], content: Content, hits: int) -> Table:
    names, rows = class_names(content), []
    for number in common_classes(found, len(names), hits):
        for removal, bias in found.items():
            shares, counts = bias.by_class(len(names))
            rows.append((names[number], removal, int(counts[number]), *shares[number].tolist()))
    title = f"Classes with more than {hits} images that the model gets right"
    return Table("classes", title, ("class", "removal", "images", *BETTER), rows, BETTER)


BETTER = {
    "object hidden": METRICS["object-hidden"].higher_is_better,
    "broken mask": METRICS["broken-mask"].higher_is_better,
    "difference": METRICS["shape-difference"].higher_is_better,
}


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    lines = common_words(content)
    if has_classes(content):
        lines.append("Only images count that the model gets right when they are whole.")
        if not all(len(each.labels) for each in biases(columns, content).values()):
            lines.append("There are no such images: check that the labels are those of this model's classes.")
    none, all_of_it = _left_out(columns)
    if none:
        lines.append(f"{none} images are left out: no part of the object is in what the model sees.")
    if all_of_it:
        lines.append(f"{all_of_it} images are left out: the object is all that the model sees.")
    return lines


def _left_out(columns: Columns) -> tuple[int, int]:
    """Return the numbers of pictures without an object, and with nothing else, in what the model sees."""
    _, first = np.unique(columns["image"], return_index=True)
    share = columns["object"][first]
    return int((share == 0).sum()), int((share == 1).sum())


def has_classes(content: Content) -> bool:
    """Return whether classes can be compared: only if the data has labels."""
    return content["settings"]["labels"] == OF_THE_DATA


def common_classes(found: dict[str, ShapeBias], count: int, hits: int) -> list[int]:
    """Return the classes with more than `hits` images under every removal, those that the first leads first.

    A removal leads by how much its difference is above the mean of the others' (paper, Figure 6).
    """
    if not all(len(each.labels) for each in found.values()):
        return []
    tables, counts = zip(*(each.by_class(count) for each in found.values()), strict=True)
    enough = (torch.stack(counts) > hits).all(0).nonzero()[:, 0]
    differences = torch.stack(tables)[:, enough, 2]
    others = differences[1:].mean(0) if len(differences) > 1 else torch.zeros(len(enough))
    return enough[(differences[0] - others).argsort(descending=True, stable=True)].tolist()
