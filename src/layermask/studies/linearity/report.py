"""What was found of linearity: means with intervals, by removal and patch size."""

from __future__ import annotations

import torch
from torch import Tensor

from layermask.metrics.bootstrap import means
from layermask.metrics.registry import METRICS
from layermask.render.table import Table
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content

LABELS = {
    "l2": "distance to the whole",
    "cosine": "cosine with the whole",
    "norm": "norm of the sum",
    "whole_norm": "norm of the whole",
}
"""The measures, by the names of their columns."""
BETTER = {name: METRICS[f"linearity-{name}"].higher_is_better for name in ("l2", "cosine")}


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the means."""
    rows = [
        (removal, patch, len(found), *means(found))
        for patch in content["settings"]["patches"]
        for removal in content["settings"]["removals"]
        for found in [numbers(columns, patch, removal)]
    ]
    title = "Means and 95 % intervals over images"
    return [Table("means", title, ("removal", "patch", "images", *LABELS), rows, BETTER)]


def numbers(columns: Columns, patch: int, removal: str) -> Tensor:
    """Return the measures (N, 4) of the images."""
    chosen = (columns["patch"] == patch) & (columns["removal"] == removal)
    return torch.stack([torch.from_numpy(columns[name][chosen]) for name in LABELS], 1)


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    of = content["settings"]["of"]
    return [
        *common_words(content),
        f"The {of} of all patches, each shown alone, are summed and compared with those of the whole image; "
        "the distance is relative to the norm of the whole.",
    ]
