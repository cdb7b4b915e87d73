"""Hide a marker in an X-ray with a mask drawn by hand, and see whether the model looked at it.

    python examples/xray_mask.py

Markers, tokens and burned-in text are shortcuts: a model may read the hospital from them. The mask is a PNG,
white = visible. On the command line: `layermask predict chest.png --mask drawn.png`, and
`layermask explain chest.png --nodata drawn.png` for an explanation that leaves the marker out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import layermask as lm
from layermask.data import load_pixels

SIDE = 48


class ReadsTheMarker(nn.Module):
    """A model that has learned the wrong thing: the brighter the brightest spot, the more "ill"."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.smooth.weight, 1 / 9)

    def forward(self, x: Tensor) -> Tensor:
        brightest = self.smooth(x).amax((2, 3))
        return torch.cat([-brightest, brightest], 1)


def draw(folder: Path) -> tuple[Path, Path]:
    """Write a picture of 16 bits with a marker in its corner, and a mask around the marker."""
    grey = np.random.default_rng(0).integers(8_000, 30_000, (SIDE, SIDE)).astype(np.uint16)
    grey[4:10, 36:44] = 65_535
    mask = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(mask).ellipse((33, 1, 46, 12), fill=0)
    Image.fromarray(grey).save(folder / "chest.png")
    mask.save(folder / "drawn.png")
    return folder / "chest.png", folder / "drawn.png"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        picture, drawn = draw(Path(folder))
        x = load_pixels(picture) / 65_535
        valid = torch.from_numpy(np.array(lm.load_mask(drawn)) > 0)
    model = ReadsTheMarker().eval()
    removal, segments = lm.LayerMasking(model), lm.Grid(16)(x)
    explain = lm.FeatureAblation(removal, output="logit")
    whole = explain.attribute(x, target=1, feature_mask=segments)
    without = explain.attribute(x, target=1, feature_mask=segments, valid=valid)
    best = int(whole.scores[0].argmax())
    print(f"ill: {float(whole.prediction):.2f} with the marker, {float(without.prediction):.2f} without")
    print(f"the whole picture is explained by segment {best}, and the marker lies in {int(segments[7, 40])}")
    assert best == int(segments[7, 40]) and float(without.prediction) < float(whole.prediction)
    assert bool(without.heatmap()[~valid].isnan().all())


if __name__ == "__main__":
    main()
