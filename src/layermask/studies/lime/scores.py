"""The three measures of LIME, image by image, from the rows."""

from __future__ import annotations

import torch
from torch import Tensor

from layermask.metrics.registry import METRICS
from layermask.studies.registry import Columns, Content

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
