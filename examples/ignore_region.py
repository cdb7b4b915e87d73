"""Ignore a region at inference: a microscope's scale bar, debris, a fold, drawn as polygons in labelme.

    python examples/ignore_region.py

A classifier looks at everything in its picture. `valid=` says what may be visible: the region reaches neither
the answer nor the explanation, whatever is in it. On the command line:
`layermask explain picture.png --nodata picture.json`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import layermask as lm
from layermask.data import load_polygons

SIDE = 32


def classifier() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    ).eval()


def drawn(folder: Path) -> Path:
    """Write what labelme writes for a scale bar that somebody has drawn a rectangle around."""
    shape = {"label": "scale bar", "points": [[20, 26], [31, 31]], "shape_type": "rectangle"}
    path = folder / "picture.json"
    path.write_text(json.dumps({"imageWidth": SIDE, "imageHeight": SIDE, "shapes": [shape]}))
    return path


def with_bar(image: Tensor, colour: float) -> Tensor:
    image = image.clone()
    image[..., 27:30, 21:31] = colour
    return image


def main() -> None:
    torch.manual_seed(0)
    model, image = classifier(), torch.randn(1, 1, SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        ignored = np.array(load_polygons(drawn(Path(folder)), label="scale bar")) > 0
    valid = torch.from_numpy(~ignored)
    removal = lm.LayerMasking(model)

    explain = lm.KernelShap(removal, output="logit", n_samples=300)
    scores = []
    for colour in (0.0, 8.0):
        picture = with_bar(image, colour)
        with torch.no_grad():
            answers = model(picture)[0].tolist(), removal(picture, valid[None, None])[0].tolist()
        print(f"bar of {colour}: plain {answers[0]}, bar ignored {answers[1]}")
        found = explain.attribute(picture, target=0, feature_mask=lm.Grid(8)(picture), valid=valid)
        scores.append(found.heatmap())
    assert torch.equal(scores[0].nan_to_num(), scores[1].nan_to_num())
    assert torch.equal(scores[0].isnan(), ~valid)


if __name__ == "__main__":
    main()
