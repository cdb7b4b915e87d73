"""Figure 2: one channel after the first residual block, under grey fill, layer masking, and zero padding."""

from __future__ import annotations

import torch
from picture import PICTURE, board, image_of, patches
from setting import RESULTS, load
from torch import Tensor

from layermask import LayerMasking
from layermask.data.images import load_image
from layermask.explain.feature_maps import FeatureMap, Place, activations, distance, most_varying_channel
from layermask.io.atomic import write_all
from layermask.io.figure import CELL, GAP, HEAD, MARGIN, new_figure, place_axes, place_image, png
from layermask.io.overlay import hidden_picture
from layermask.removal import Greyout

BLOCK = Place("layer1.0", 0, (56, 56), (2, 3))
MODEL = "resnet50_v1.keras_in1k"


def features(x: Tensor, visible: Tensor) -> dict[str, FeatureMap]:
    """Return the block's output for the whole image and under each removal."""
    model = load(MODEL).model
    answers = {
        "whole image": lambda: model(x),
        "grey": lambda: Greyout(model)(x, visible),
        "layer masking": lambda: LayerMasking(model)(x, visible),
        "layer masking, zero padding": lambda: LayerMasking(model, fill="zero")(x, visible),
    }
    return {name: activations(model, answer, [BLOCK])[0] for name, answer in answers.items()}


if __name__ == "__main__":
    preprocessing = load(MODEL).preprocessing
    x = preprocessing(load_image(PICTURE))
    visible = patches(0.5, seed=0)
    found = features(x, visible)
    whole = found["whole image"]
    channel = most_varying_channel(whole)
    # Cells whose whole 4 x 4 pixels are visible: what removal should leave as it was.
    shown = torch.nn.functional.avg_pool2d(visible.float(), 4)[0, 0] == 1
    width, height = 2 * MARGIN + 3 * (CELL + GAP), 2 * MARGIN + 2 * (CELL + HEAD) + 0.1
    figure = new_figure(width, height, f"ResNet-50, channel {channel} of {BLOCK.module}")
    pixels = image_of(preprocessing, x)
    top, low = height - MARGIN - HEAD - CELL, MARGIN
    place_image(figure, (MARGIN, top), pixels, "image")
    place_image(figure, (MARGIN + 2 * (CELL + GAP), top), hidden_picture(pixels, visible), "mask")
    places = [(MARGIN + CELL + GAP, top), *((MARGIN + i * (CELL + GAP), low) for i in range(3))]
    limit = float(whole.values[channel].max())
    for (name, each), corner in zip(found.items(), places, strict=True):
        far = distance(each, whole, shown)
        lines = [name] if each is whole else [name, f"off by {far:.0%} where the image is visible"]
        axes = place_axes(figure, corner, CELL, CELL)
        axes.imshow(board(each.values[channel], each.visible, limit), interpolation="nearest")
        axes.set_title("\n".join(lines), fontsize=9, loc="left", pad=4)
    write_all({RESULTS / "figure2.png": png(figure)})
