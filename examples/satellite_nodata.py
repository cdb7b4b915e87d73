"""Satellite tiles with nodata: swath gaps and clouds, without filling them and without losing the tile.

    python examples/satellite_nodata.py

A segmenter of six bands (here a small one with random weights; any model works) gets a tile whose swath ends
in the tile and that clouds cover in part. Filled with 0, the gap changes the map next to it. As NaN, it takes
the map with it. `NaNHidden(LayerMasking(model))` answers from the pixels that hold data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import layermask as lm

SIDE = 64
RADIUS = 6  # of the receptive field: three convolutions of 5 x 5


def segmenter(bands: int = 6, classes: int = 4) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (bands, 12, 12):
        layers += [nn.Conv2d(channels, 12, 5, padding=2), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, classes, 1)).eval()


def tile() -> tuple[Tensor, Tensor]:
    """Return a tile (1, 6, H, W), NaN beyond the swath, and its clouds (H, W) bool.

    Of a file: `lm.data.load_raster("tile.tif")`, which puts NaN where the file says nodata.
    """
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    image = torch.randn(1, 6, SIDE, SIDE)
    image[:, :, rows + 2 * columns > 2.4 * SIDE] = torch.nan
    return image, (rows - 20) ** 2 + (columns - 15) ** 2 < 64


def main() -> None:
    torch.manual_seed(0)
    model, (image, clouds) = segmenter(), tile()
    masked = lm.adapters.NaNHidden(lm.LayerMasking(model))
    valid = ~image.isnan().any(1, keepdim=True) & ~clouds

    with torch.no_grad():
        answer = masked(lm.adapters.mark_hidden(image, valid))
        lost = model(image).isnan().any(1).float().mean()
    print(f"NaN in the plain model: {lost:.0%} of the map is lost; masked: {answer.isnan().sum()} values")

    # One broken pixel changes nothing beyond its receptive field, and what it holds changes nothing at all.
    broken = lm.adapters.mark_hidden(image, valid)
    broken[0, 3, 40, 12] = torch.nan
    with torch.no_grad():
        changed = (masked(broken) != answer).any(1)[0]
    rows, columns = changed.nonzero().unbind(1)
    reach = max(int((rows - 40).abs().max()), int((columns - 12).abs().max()))
    print(f"one NaN pixel changes the map {reach} pixels around it, of a receptive field of {RADIUS}")
    assert not answer.isnan().any() and lost > 0
    assert 0 < reach <= RADIUS


if __name__ == "__main__":
    main()
