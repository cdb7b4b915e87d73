"""Table 1: accuracy and class entropy while segments are removed, 3 segmentations x 3 orders x 3 removals."""

from __future__ import annotations

from areas import NAMES, Areas, areas, cell, kept, rows
from setting import images, measure, options

from layermask.studies import SegmentStudy

REMOVALS = ("blackout", "greyout", "layermask")
SEGMENTATIONS = ("paper-quickshift", "paper-grid", "paper-slic")
ORDERS = ("random", "salient-first", "salient-last")
SETTINGS = [(segmentation, order) for segmentation in SEGMENTATIONS for order in ORDERS]

PAPER = {
    "accuracy": {
        "blackout": (0.395, 0.124, 0.767, 0.181, 0.340, 0.582, 0.347, 0.200, 0.657),
        "greyout": (0.463, 0.137, 0.787, 0.240, 0.374, 0.621, 0.418, 0.234, 0.702),
        "layermask": (0.551, 0.159, 0.806, 0.577, 0.484, 0.703, 0.542, 0.294, 0.756),
    },
    "entropy": {
        "blackout": (4.988, 2.224, 5.824, 2.574, 4.570, 5.406, 4.815, 3.976, 5.661),
        "greyout": (5.327, 2.362, 5.875, 3.289, 4.807, 5.642, 5.022, 4.229, 5.808),
        "layermask": (5.698, 2.572, 5.892, 5.651, 5.782, 5.879, 5.607, 4.763, 5.876),
    },
}
"""In the order of `SETTINGS`."""
CAVEAT = (
    "int(fraction x segments) of each image's own segments are hidden; the released code takes the "
    "largest number of segments in the batch, which holds quickshift's and SLIC's areas apart in "
    "salient orders."
)


def section() -> list[str]:
    columns, content = kept("table1")
    found = areas(columns, content)
    lines = [
        f"{content['images']} images. Paper, then ours with its 95 % bootstrap interval over images.",
        "",
    ]
    for metric in PAPER:
        header = [metric, *(f"{NAMES[name]}{what}" for name in REMOVALS for what in (", paper", ", ours"))]
        lines += [*rows(header, [_line(found, metric, place) for place in range(len(SETTINGS))]), ""]
    return lines


def _line(found: Areas, metric: str, place: int) -> list[str]:
    segmentation, order = SETTINGS[place]
    cells = [f"{segmentation.removeprefix('paper-')}, {order}"]
    for name in REMOVALS:
        cells += [f"{PAPER[metric][name][place]:.3f}", cell(found[name, segmentation, order][metric])]
    return cells


if __name__ == "__main__":
    given = options(__doc__, limit=100).parse_args()
    measure(SegmentStudy(REMOVALS, SEGMENTATIONS, ORDERS, seed=given.seed), images(), given, "table1")
