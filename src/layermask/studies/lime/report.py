"""What was found of LIME: means with intervals, differences between removals, and the paper's Table 2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layermask.metrics.bootstrap import differences, means
from layermask.metrics.registry import METRICS
from layermask.render.table import Table
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
    removals = content["settings"]["removals"]
    rows = [
        (segmentation, removal, len(measures["alignment"]), *found)
        for segmentation, measures in scores(columns, content).items()
        for removal, *found in zip(removals, *map(means, measures.values()), strict=True)
    ]
    header = ("segmentation", "removal", "images", *BETTER)
    return Table("means", "Means and 95 % intervals over images", header, rows, BETTER)


def _differences(columns: Columns, content: Content) -> Table:
    first, *others = content["settings"]["removals"]
    rows = [
        (segmentation, f"{removal} - {first}", *found)
        for segmentation, measures in scores(columns, content).items()
        for removal, *found in zip(others, *map(differences, measures.values()), strict=True)
    ]
    title = f"Differences from {first} on the same images"
    return Table("differences", title, ("segmentation", "removals", *BETTER), rows, BETTER)


def _as_in_the_paper(columns: Columns, content: Content) -> Table:
    found = {
        (name, segmentation): [each.value for each in means(measures[name])]
        for name in BETTER
        for segmentation, measures in scores(columns, content).items()
    }
    titles = {f"{name} {segmentation}": BETTER[name] for name, segmentation in found}
    rows = list(zip(content["settings"]["removals"], *found.values(), strict=True))
    return Table("table2", "Means, as in the paper's Table 2", ("removal", *titles), rows, titles)


MEASURES = {"ablation": "right", "alignment": "alignment", "jaccard": "jaccard"}
"""The columns of the measures, in the order of the paper's Table 2."""
METRIC = {"ablation": "top-k-ablation", "alignment": "alignment", "jaccard": "top-k-jaccard"}
BETTER = {name: METRICS[metric].higher_is_better for name, metric in METRIC.items()}


def labels(content: Content) -> dict[str, str]:
    """Return the measures' names in figures."""
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
                columns[key][counted & (columns["segmentation"] == segmentation)].astype(float)
            ).view(-1, removals)
            for name, key in MEASURES.items()
        }
        for segmentation in content["settings"]["segmentations"]
    }


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    settings = content["settings"]
    lines = common_words(content, "accuracy without the top segments")
    lines.append(
        f"LIME explains {_explained(content)} from {settings['n_samples']} masks. The ablation hides the top "
        f"{settings['k']} segments by {settings['ablation']}."
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
            lines.append(f"{count} of {whole} pairs of image and segmentation are left out: {meaning}.")
    return lines


def _too_few(columns: Columns, content: Content) -> list[str]:
    samples = content["settings"]["n_samples"]
    few = (columns["left_out"] == "") & (2 * columns["segments"] > samples)
    if not few.any():
        return []
    most = int(np.max(columns["segments"][few]))
    return [
        f"{int(few.sum())} of {len(few)} explanations have fewer than 2 masks per segment ({samples} masks "
        f"for up to {most} segments): their scores are noisy."
    ]
