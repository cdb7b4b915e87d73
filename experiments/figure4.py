"""Figure 4: what models say while random 16x16 patches are removed, for every weight file."""

from __future__ import annotations

from areas import NAMES, areas, cell, drawing, kept, rows
from setting import WEIGHTS, images, measure, of_every_model
from table1 import REMOVALS

from layermask.studies import SegmentStudy

METRICS = ("accuracy", "entropy", "wordnet", "unchanged")
RESNET = "resnet50_v1.keras_in1k"
RELEASED = {  # torchvision's ResNet-50, 1,408 images: accuracies that the authors' code stored
    "greyout": (0.919, 0.808, 0.542, 0.273, 0.104, 0.038, 0.011, 0.006, 0.002, 0.001, 0.001),
    "layermask": (0.919, 0.911, 0.887, 0.854, 0.802, 0.729, 0.597, 0.433, 0.227, 0.073, 0.0),
}


def section() -> list[str]:
    lines = [*_beside_the_released(), ""]
    for name, weights in WEIGHTS.items():
        columns, content = kept(f"figure4-{name}")
        found = areas(columns, content)
        body = [
            [NAMES[removal], *(cell(found[removal, "paper-grid", "random"][metric]) for metric in METRICS)]
            for removal in REMOVALS
        ]
        lines += [
            f"{weights.title}, {content['images']} images:",
            "",
            *rows(["removal", *METRICS], body),
            "",
            drawing(f"figure4-{name}"),
            "",
        ]
    return lines


def _beside_the_released() -> list[str]:
    columns, _ = kept(f"figure4-{RESNET}")
    fractions = sorted(set(columns["fraction"].tolist()))
    right = columns["prediction"] == columns["label"]
    body = []
    for removal, stored in RELEASED.items():
        chosen = columns["removal"] == removal
        ours = [float(right[chosen & (columns["fraction"] == each)].mean()) for each in fractions]
        for whose, values in (("the authors' code", stored), ("ours", ours)):
            numbers = [f"{value:.3f}" for value in (*values, sum(values) / len(values))]
            body.append([f"{NAMES[removal]}, {whose}", *numbers])
    header = ["share hidden", *(f"{each:g}" for each in fractions), "mean"]
    text = "Accuracy of ResNet-50, torchvision's with 1,408 images in the authors' stored results, and ours:"
    return [text, "", *rows(header, body)]


if __name__ == "__main__":
    for given in of_every_model(__doc__, limit=300):
        experiment = SegmentStudy(REMOVALS, ("paper-grid",), ("random",), seed=given.seed)
        measure(experiment, images(), given, f"figure4-{given.model}")
