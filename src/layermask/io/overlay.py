"""Scores over a picture: the tint, the segments' borders, the scale; and pictures with hidden parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.errors import import_optional
from layermask.io.figure import CELL, place_axes
from layermask.io.pixels import bordered, checkered, tinted

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image


def overlay(picture: np.ndarray, heatmap: Tensor, limit: float) -> np.ndarray:
    """Tint a grey copy of a picture (H, W, 3) uint8 by scores (H, W); see `tinted`."""
    grey = torch.from_numpy(picture.copy()).double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.double)
    lighter = grey * 0.75 + 64  # so that the tint is read and not the picture's own colours
    return tinted(lighter, heatmap, limit).numpy()


def hidden_picture(picture: np.ndarray, visible: Tensor) -> np.ndarray:
    """Return a picture (H, W, 3) whose hidden pixels are a checkerboard; visible (..., H, W)."""
    return checkered(torch.from_numpy(picture.copy()), visible.reshape(visible.shape[-2:])).numpy()


def bordered_picture(picture: Image.Image, segments: Tensor) -> Image.Image:
    """Return a picture with the borders of its segments (H, W) drawn into it, pixel by pixel."""
    import numpy as np
    from PIL import Image

    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return Image.fromarray(bordered(pixels, segments).numpy())


def numbered_picture(picture: Image.Image, segments: Tensor) -> Image.Image:
    """Return a picture with the number of each segment (H, W) written at its middle pixel, where it fits."""
    from PIL import ImageDraw

    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    for number in segments.unique().tolist():
        rows, columns = (segments == number).nonzero().unbind(1)
        middle = int(((rows - rows.double().mean()) ** 2 + (columns - columns.double().mean()) ** 2).argmin())
        if number >= 0 and len(rows) >= 200:  # pixels, of three digits and some room
            place = int(columns[middle]), int(rows[middle])
            pen.text(place, str(number), fill="white", anchor="mm", stroke_width=1, stroke_fill="black")
    return drawn


def draw_boundaries(axes: Axes, segments: Tensor) -> None:
    """Draw the borders of segments as thin lines between pixels."""
    lines = import_optional("matplotlib.collections", "cli").LineCollection
    down = (segments[1:] != segments[:-1]).nonzero().tolist()
    across = (segments[:, 1:] != segments[:, :-1]).nonzero().tolist()
    edges = [((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)) for y, x in down]
    edges += [((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)) for y, x in across]
    axes.add_collection(lines(edges, colors="white", linewidths=0.35, alpha=0.55), autolim=False)


def draw_scale(figure: Figure, corner: tuple[float, float], limit: float) -> None:
    axes = place_axes(figure, corner, 0.14, CELL)
    ramp = torch.linspace(1, -1, 256)[:, None].expand(-1, 2)
    white = torch.full((256, 2, 3), 255, dtype=torch.uint8).numpy()
    axes.imshow(overlay(white, ramp, 1.0), aspect="auto", extent=(0, 1, -1, 1))
    axes.yaxis.tick_right()
    axes.set_yticks([-1, 0, 1], [f"{-limit:.2g}", "0", f"+{limit:.2g}"], fontsize=8)
    axes.tick_params(length=2, pad=2)
