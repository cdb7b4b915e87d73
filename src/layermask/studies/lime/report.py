"""What was found of LIME: means with intervals, differences between removals, and the paper's Table 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layermask.metrics.bootstrap import differences, means
from layermask.metrics.registry import METRICS
from layermask.render.table import Cell, Table
from layermask.studies.lime.study import LEFT_OUT
from layermask.studies.protocol import OF_THE_DATA, common_words
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


MEASURES = {"ablation": "right", "alignment": "alignment", "jaccard": "jaccard"}
"""The columns of the measures, in the order of the paper's Table 2."""
METRIC = {"ablation": "top-k-ablation", "alignment": "alignment", "jaccard": "top-k-jaccard"}
BETTER = {name: METRICS[metric].higher_is_better for name, metric in METRIC.items()}


def titles(content: Content) -> dict[str, str]:
    """Return the measures' names in full."""
    k = content["settings"]["k"]
    return {
        "ablation": f"accuracy without top {k}",
        "alignment": "alignment",
        "jaccard": f"Jaccard of top {k}",
    }


def scores(columns: Columns, content: Content) -> dict[str, dict[str, Tensor]]:
    """Return, by segmentation and measure, the values (N, R) of the images that count under R removals."""
    removals = len(content["settings"]["removals"])
    counted = columns["left_out"] == ""
    return {
        segmentation: {
            name: torch.from_numpy(
                columns[column][counted & (columns["segmentation"] == segmentation)].astype(float)
            ).view(-1, removals)
            for name, column in MEASURES.items()
        }
        for segmentation in content["settings"]["segmentations"]
    }


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    settings = content["settings"]
    lines = common_words(content, "accuracy without the top segments")
    lines.append(
        f"LIME explains {_explained(content)} from {settings['n_samples']} masks; the top {settings['k']} "
        f"segments are hidden by {settings['ablation']}."
    )
    return [*lines, *_left_out(columns, content), *_too_few(columns, content)]


def _explained(content: Content) -> str:
    settings = content["settings"]
    known = settings["labels"] == OF_THE_DATA and settings["explain"] == "label"
    return "the label" if known else "the plain model's prediction"


def _left_out(columns: Columns, content: Content) -> list[str]:
    removals = len(content["settings"]["removals"])
    lines = []
    for reason, meaning in LEFT_OUT.items():
        count = int((columns["left_out"] == reason).sum()) // removals
        if count:
            whole = len(columns["left_out"]) // removals
            lines.append(f"Left out, {count} of {whole} images × segmentations: {meaning}.")
    return lines


def _too_few(columns: Columns, content: Content) -> list[str]:
    samples = content["settings"]["n_samples"]
    few = (columns["left_out"] == "") & (2 * columns["segments"] > samples)
    if not few.any():
        return []
    most = int(np.max(columns["segments"][few]))
    return [
        f"In {int(few.sum())} of {len(few)} explanations {samples} masks are less than 2 per segment (up to "
        f"{most} segments): those scores are noisy."
    ]
