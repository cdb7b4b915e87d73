"""Figure 3: neighbour padding on a part of the image as the number of rings grows."""

from __future__ import annotations

import torch
from picture import PICTURE, image_of
from setting import RESULTS
from torch import Tensor

from layermask import Masked
from layermask.data.images import load_image
from layermask.io.atomic import write_all
from layermask.io.figure import CELL, GAP, HEAD, MARGIN, new_figure, place_axes, png
from layermask.io.overlay import hidden_picture
from layermask.padding.neighbor import neighbor
from layermask.zoo import Preprocessing

RINGS = (0, 1, 3, 6)
TOP, LEFT, SIZE = 76, 60, 48
"""The part that is shown, in pixels: an eye."""


def disc(size: int) -> Tensor:
    """Return a mask (1, 1, size, size) with a disc hidden."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((y - size / 2) ** 2 + (x - size / 2) ** 2 > (size / 3) ** 2)[None, None]


def padded(image: Tensor, visible: Tensor, rings: int) -> tuple[Tensor, Tensor]:
    """Return the image (1, C, H, W) with so many rings filled, and what is known by then."""
    known = torch.nn.functional.max_pool2d(visible.float(), 2 * rings + 1, 1, rings) > 0
    return neighbor(Masked(image, visible), (rings, rings)) if rings else image, known


if __name__ == "__main__":
    preprocessing = Preprocessing()
    x = preprocessing(load_image(PICTURE))
    part = x[..., TOP : TOP + SIZE, LEFT : LEFT + SIZE]
    visible = disc(SIZE)
    figure = new_figure(2 * MARGIN + len(RINGS) * (CELL + GAP), 2 * MARGIN + CELL + HEAD, "Neighbour padding")
    for index, rings in enumerate(RINGS):
        filled, known = padded(part, visible, rings)
        axes = place_axes(figure, (MARGIN + index * (CELL + GAP), MARGIN), CELL, CELL)
        axes.imshow(hidden_picture(image_of(preprocessing, filled), known, cell=1), interpolation="nearest")
        axes.contour(visible[0, 0].double(), levels=[0.5], colors="0.6", linewidths=1)
        axes.set_title(
            f"{rings} ring{'s' * (rings > 1)}" if rings else "hidden", fontsize=9, loc="left", pad=4
        )
    write_all({RESULTS / "figure3.png": png(figure)})
