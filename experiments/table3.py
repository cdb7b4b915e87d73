"""Table 3: what is left of layer masking without neighbour padding, or in the first layers alone.

Its variants alone, with the images and orders of table1.py, whose rows stand beside them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from setting import images, measure, options
from table1 import ORDERS, SEGMENTATIONS
from torch import Tensor

from layermask import LayerMasking, Loaded
from layermask.evaluate import SegmentRemoval

VARIANTS = {
    "two-stages": partial(LayerMasking, until="layer2"),  # the paper's "1st and 2nd residual blocks"
    "first-convolution": partial(LayerMasking, until="act1"),  # announced in its section 5, without a row
    "zero-padding": partial(LayerMasking, fill="zero"),
}


def operator(name: str, loaded: Loaded, segments: Tensor | None) -> Any:
    return VARIANTS[name](loaded.model)


if __name__ == "__main__":
    given = options(__doc__, limit=50).parse_args()
    experiment = SegmentRemoval(tuple(VARIANTS), SEGMENTATIONS, ORDERS, seed=given.seed, operator=operator)
    measure(experiment, images(), given, "table3")
