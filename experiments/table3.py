"""Table 3: what is left of layer masking without neighbour padding, or in the first layers alone.

Its variants alone, with the images and orders of table1.py, whose rows stand beside them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from areas import areas, kept, rows
from setting import images, measure, options
from table1 import ORDERS, SEGMENTATIONS
from torch import Tensor

from layermask import LayerMasking
from layermask.studies import SegmentStudy
from layermask.zoo import Loaded

VARIANTS = {
    "two-stages": partial(LayerMasking, until="layer2"),  # the paper's "1st and 2nd residual blocks"
    "first-convolution": partial(LayerMasking, until="act1"),  # announced in its section 5, without a row
    "zero-padding": partial(LayerMasking, fill="zero"),
}
METRICS = ("accuracy", "entropy", "wordnet", "unchanged")
PAPER = {
    "blackout": ("black", 0.3881, 4.6473, 0.6930, 0.4094),
    "greyout": ("grey", 0.4398, 4.9408, 0.7167, 0.4636),
    "layermask": ("layer masking", 0.5604, 5.6021, 0.7881, 0.5907),
    "two-stages": ("in the first two residual stages", 0.5103, 5.0962, 0.7616, 0.5391),
    "first-convolution": ("in the first convolution, norm, ReLU", None, None, None, None),
    "zero-padding": ("with zero padding", 0.4502, 5.0388, 0.7262, 0.4747),
}
CAVEAT = (
    "Means over the nine settings of Table 1. The paper's means are of another run than its Table 1 "
    "(its figures are not the means of that table), and it has no row for the first convolution alone. "
    "Where masking ends, hidden cells hold zeros from there on."
)


def operator(name: str, loaded: Loaded, segments: Tensor | None) -> Any:
    return VARIANTS[name](loaded.model)


def section() -> list[str]:
    """Return the means of the areas over the nine settings, on the images that both runs share."""
    variants, content = kept("table3")
    others, _ = kept("table1")
    shared = np.isin(others["image"], variants["image"])
    found = areas(variants, content)
    found |= areas({name: values[shared] for name, values in others.items()}, kept("table1")[1])
    body = []
    for removal, (title, *paper) in PAPER.items():
        cells = [title]
        for metric, printed in zip(METRICS, paper, strict=True):
            values = [value_of(each[metric]) for key, each in found.items() if key[0] == removal]
            cells += [f"{printed:.4f}" if printed else "no row", f"{np.mean(values):.4f}"]
        body.append(cells)
    header = ["masking", *(f"{name}, {whose}" for name in METRICS for whose in ("paper", "ours"))]
    return [f"{content['images']} images.", "", *rows(header, body)]


def value_of(cell: Any) -> float:
    return getattr(cell, "value", cell)


if __name__ == "__main__":
    given = options(__doc__, limit=50).parse_args()
    experiment = SegmentStudy(tuple(VARIANTS), SEGMENTATIONS, ORDERS, seed=given.seed, operator=operator)
    measure(experiment, images(), given, "table3")
