"""Table 2: LIME judged by object masks and by what its highest segments were worth."""

from __future__ import annotations

from areas import NAMES, cell, kept, rows
from setting import measure, objects, options
from table1 import REMOVALS

from layermask.studies import LimeStudy
from layermask.studies.registry import experiment_of

SEGMENTATIONS = ("paper-lime-quickshift", "paper-grid", "paper-lime-slic")
PAPER = {  # in the order of SEGMENTATIONS
    "ablation": {
        "blackout": (0.570, 0.701, 0.740),
        "greyout": (0.348, 0.609, 0.574),
        "layermask": (0.229, 0.334, 0.406),
    },
    "alignment": {
        "blackout": (0.138, 0.020, 0.092),
        "greyout": (0.231, 0.078, 0.171),
        "layermask": (0.324, 0.250, 0.280),
    },
    "jaccard": {
        "blackout": (0.186, 0.087, 0.131),
        "greyout": (0.231, 0.113, 0.172),
        "layermask": (0.273, 0.186, 0.216),
    },
}
CAVEAT = (
    "The paper's images are of Pixel ImageNet, with labels; here the class explained is the one predicted."
)


def section() -> list[str]:
    columns, content = kept("table2")
    table = experiment_of(content).summarise(columns, content)[0]
    lines = [f"{content['images']} images, {content['settings']['n_samples']} samples each.", ""]
    named = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    found = {(row["segmentation"], row["removal"]): row for row in named}
    for metric, figures in PAPER.items():
        header = [metric, *(f"{NAMES[name]}, {whose}" for name in REMOVALS for whose in ("paper", "ours"))]
        body = []
        for place, segmentation in enumerate(SEGMENTATIONS):
            cells = [segmentation.removeprefix("paper-").removeprefix("lime-")]
            for name in REMOVALS:
                cells += [f"{figures[name][place]:.3f}", cell(found[segmentation, name][metric])]
            body.append(cells)
        lines += [*rows(header, body), ""]
    return lines


if __name__ == "__main__":
    parser = options(__doc__, limit=20)
    parser.add_argument("--n-samples", type=int, default=512)
    given = parser.parse_args()
    experiment = LimeStudy(REMOVALS, SEGMENTATIONS, n_samples=given.n_samples, seed=given.seed)
    measure(experiment, objects(), given, "table2")
