"""Figures 6 and 7: accuracy without the object, and with its mask broken, for every weight file."""

from __future__ import annotations

from areas import NAMES, cell, drawing, kept, rows
from setting import WEIGHTS, measure, objects, of_every_model
from table1 import REMOVALS

from layermask.studies import ShapeBiasStudy
from layermask.studies.registry import experiment_of

RELEASED = {  # object hidden, broken mask: by the authors' notebook, 2,816 images of Pixel ImageNet
    "ResNet-50": {"blackout": (0.2365, 0.6954), "greyout": (0.2225, 0.7250), "layermask": (0.1691, 0.8181)},
    "SqueezeNet 1.1": {
        "blackout": (0.1513, 0.5063),
        "greyout": (0.1425, 0.5663),
        "layermask": (0.1288, 0.6643),
    },
}
HEADER = ["removal", "object hidden", "broken mask", "difference"]
CAVEAT = (
    "Figure 7's ResNet-50 (trained with grey augmentation) is not at hand, nor labels: per class there "
    "is nothing to draw."
)


def section() -> list[str]:
    lines = ["What the authors' notebook printed, for accuracy on images with labels:", ""]
    for title, figures in RELEASED.items():
        body = [
            [NAMES[name], f"{hidden:.3f}", f"{broken:.3f}", f"{broken - hidden:.3f}"]
            for name, (hidden, broken) in figures.items()
        ]
        lines += [f"{title} (torchvision):", "", *rows(HEADER, body), ""]
    for name, weights in WEIGHTS.items():
        columns, content = kept(f"figure6-{name}")
        table = experiment_of(content).summarise(columns, content)[0]
        found = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
        body = [[NAMES[each], *(cell(found[each][column]) for column in HEADER[1:])] for each in REMOVALS]
        lines += [
            f"{weights.title}, {content['images']} images:",
            "",
            *rows(HEADER, body),
            "",
            drawing(f"figure6-{name}"),
            "",
        ]
    return lines


if __name__ == "__main__":
    for given in of_every_model(__doc__, limit=150):
        measure(ShapeBiasStudy(REMOVALS), objects(), given, f"figure6-{given.model}")
