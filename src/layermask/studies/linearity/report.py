"""What was found of linearity: means with intervals, by removal and patch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.metrics.bootstrap import means
from layermask.metrics.registry import METRICS
from layermask.render.table import Cell, Table
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    pass

MEASURES = ("l2", "cosine", "norm", "whole_norm")
BETTER = {name: METRICS[f"linearity-{name}"].higher_is_better for name in ("l2", "cosine")}
TITLES = {
    "l2": "distance to the whole (lower)",
    "cosine": "cosine with the whole (higher)",
    "norm": "norm of the sum",
    "whole_norm": "norm of the whole",
}


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the means."""
    rows: list[Sequence[Cell]] = []
    for patch in content["settings"]["patches"]:
        for removal in content["settings"]["removals"]:
            numbers = _numbers(columns, patch, removal)
            rows.append((removal, patch, len(numbers), *means(numbers)))
    title = "Means and 95 % intervals over images"
    return [Table("means", title, ("removal", "patch", "images", *MEASURES), rows, BETTER)]


def _numbers(columns: Columns, patch: int, removal: str) -> Tensor:
    """Return the measures (N, 4) of the images."""
    chosen = (columns["patch"] == patch) & (columns["removal"] == removal)
    return torch.stack([torch.from_numpy(columns[name][chosen]) for name in MEASURES], 1)


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    of = content["settings"]["of"]
    return [
        *common_words(content),
        f"The {of} of all patches, each shown alone, are summed and compared with those of the whole image; "
        "the distance is relative to the norm of the whole.",
    ]
