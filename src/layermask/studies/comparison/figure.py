"""The sheet of `compare`: one picture under every removal, and feature maps at each stage of the model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.explain.feature_maps import FeatureMap
from layermask.io.figure import (
    DPI,
    FAINT,
    MARGIN,
    NOTE,
    Place,
    new_figure,
    place_axes,
    place_image,
    write,
)
from layermask.io.overlay import hidden_picture

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

TILE, GAP, PER_ROW = 1.9, 0.2, 7  # inches, inches, pictures
AROUND_TILE = 0.25 + 0.27 + 0.15 + 0.42 + 0.12  # name, two classes, summary, space
ROW_NAMES, NARROWEST, WIDEST, BETWEEN = 1.15, 1.0, 1.6, 0.08  # of the feature maps, inches
LINE, HEADING, NUMBER = 0.15, 0.55, 0.22  # inches
SAME, OTHER = "#9ec3e6", "#f2c38f"


@dataclass(frozen=True)
class Tile:
    """One removal: `picture` (H, W, 3) uint8 as the model sees it, and the most likely class.

    `usual`: the most likely class of the whole image, if it is another one.
    """

    name: str
    summary: str
    picture: np.ndarray
    label: str
    probability: float
    usual: tuple[str, float] | None = None


@dataclass(frozen=True)
class Column:
    """One place in the model: its maps (1, h, w) by row; `off`: their distances from the first row."""

    heading: tuple[str, ...]
    maps: Mapping[str, FeatureMap]
    off: Mapping[str, float | None]

    def limits(self) -> tuple[float, float]:
        """Return the lowest and the highest value that is visible in any row."""
        values = torch.cat([each.values[0][each.visible] for each in self.maps.values()])
        return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def comparison_sheet(
    title: str,
    tiles: Sequence[Tile],
    inputs: Mapping[str, np.ndarray],
    columns: Sequence[Column],
    notes: Sequence[str] = (),
) -> Figure:
    """Draw a tile per removal and, if there are any columns, a grid of feature maps under them.

    `inputs`: what enters the model in each row of the grid, (H, W, 3) uint8. `notes` stand at the foot.
    """
    across = math.ceil(len(tiles) / math.ceil(len(tiles) / PER_ROW))
    left_for_maps = ROW_NAMES + (1 + len(columns)) * (NARROWEST + BETWEEN) if columns else 0
    room = max(across * (TILE + GAP) - GAP, left_for_maps, 4 * TILE)
    shape = _shape(tiles[0].picture)
    step = AROUND_TILE + TILE * shape
    rows = math.ceil(len(tiles) / across)
    side = min(WIDEST, (room - ROW_NAMES + BETWEEN) / (len(columns) + 1) - BETWEEN)
    grid = 0.3 + HEADING + len(inputs) * (side * shape + NUMBER) + 0.25 if columns else 0
    lines = [line for note in notes for line in textwrap.wrap(note, int(room * 15))]
    height = 2 * MARGIN + 0.3 + rows * step + grid + NOTE * len(lines)
    figure = new_figure(room + 2 * MARGIN, height, title, lines)
    top = height - MARGIN - 0.3
    for index, tile in enumerate(tiles):
        down, right = divmod(index, across)
        _draw_tile(figure, (MARGIN + right * (TILE + GAP), top - down * step), shape, tile)
    if columns:
        _draw_grid(figure, top - rows * step, (side, side * shape), inputs, columns)
    return figure


def _shape(picture: np.ndarray) -> float:
    """Return how tall boxes are to their width: as the picture, unless that is very tall or flat."""
    return min(1.5, max(0.5, picture.shape[0] / picture.shape[1]))


def _draw_tile(figure: Figure, corner: Place, shape: float, tile: Tile) -> None:
    """Draw a removal below its upper left corner."""
    x, y = corner
    same = tile.usual is None
    write(figure, (x, y - 0.13), tile.name, TILE, fontsize=9.5, weight="bold")
    y -= 0.25 + TILE * shape
    _show(figure, (x, y), tile.picture, (TILE, TILE * shape))
    bar = place_axes(figure, (x, y - 0.25), TILE, 0.22)
    bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    bar.barh(0, tile.probability, height=1, color=SAME if same else OTHER)
    _name_class(figure, (x, y - 0.14), f"{'✓' if same else '✗'} {tile.label}", tile.probability, fontsize=9)
    y -= 0.35
    if tile.usual:
        _name_class(figure, (x, y), *tile.usual, fontsize=8, color=FAINT)
        y -= LINE
    for index, line in enumerate(textwrap.wrap(tile.summary, 36)[:3]):
        write(figure, (x, y - index * 0.13), line, TILE, fontsize=7, color=FAINT)


def _name_class(figure: Figure, corner: Place, name: str, probability: float, **style: Any) -> None:
    x, y = corner
    write(figure, (x + 0.05, y), name, 1.25, **style)
    write(figure, (x + TILE - 0.04, y), f"{100 * probability:.1f} %", ha="right", **style)


def _draw_grid(
    figure: Figure,
    top: float,
    box: tuple[float, float],
    inputs: Mapping[str, np.ndarray],
    columns: Sequence[Column],
) -> None:
    write(figure, (MARGIN, top - 0.1), "Inside the model", fontsize=10.5, weight="bold")
    wide, tall = box
    first, start = MARGIN + ROW_NAMES, top - 0.3 - HEADING
    write(figure, (first, start + 0.1), "input", wide, fontsize=8)
    for row, (name, picture) in enumerate(inputs.items()):
        y = start - row * (tall + NUMBER)
        for index, line in enumerate(name.split("\n")):
            write(figure, (MARGIN, y - 0.1 - index * LINE), line, ROW_NAMES, fontsize=8.5)
        _show(figure, (first, y - tall), picture, box)
    for index, column in enumerate(columns):
        _draw_column(figure, (first + (index + 1) * (wide + BETWEEN), start), box, column)


def _draw_column(figure: Figure, corner: Place, box: tuple[float, float], column: Column) -> None:
    (x, start), (wide, tall) = corner, box
    limits = column.limits()
    for index, line in enumerate(reversed(column.heading)):
        write(figure, (x, start + 0.1 + index * 0.14), _ending(line, wide), wide, fontsize=7.5)
    for row, (name, each) in enumerate(column.maps.items()):
        y = start - row * (tall + NUMBER) - tall
        _show(figure, (x, y), map_picture(each, limits), box)
        if (off := column.off.get(name)) is not None:
            write(figure, (x + wide, y - 0.08), f"off by {100 * off:.0f} %", wide, fontsize=7, ha="right")
    y = start - len(column.maps) * (tall + NUMBER) - 0.02
    ramp = place_axes(figure, (x, y - 0.06), wide, 0.06)
    ramp.imshow(torch.linspace(0, 1, 64)[None].numpy(), cmap="gray", aspect="auto")
    write(figure, (x, y - 0.14), f"{limits[0]:.2g}", fontsize=6.5)
    write(figure, (x + wide, y - 0.14), f"{limits[1]:.2g}", fontsize=6.5, ha="right")


def _ending(name: str, wide: float) -> str:
    """Return what fits of a module's name: its end, which says more than its beginning."""
    fits = int(14 * wide)
    return name if len(name) <= fits else "…" + name[1 - fits :]


def map_picture(each: FeatureMap, limits: tuple[float, float], size: int = 224) -> np.ndarray:
    """Return a map (1, h, w) in grey, enlarged to about `size` pixels, with a checkerboard where hidden."""
    low, high = limits
    level = ((each.values[0] - low) / ((high - low) or 1)).clamp(0, 1)
    times = max(1, round(size / max(level.shape)))
    grey = _enlarged((255 * level).round().to(torch.uint8), times)
    return hidden_picture(grey[..., None].expand(-1, -1, 3).numpy(), _enlarged(each.visible, times))


def _enlarged(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, 0).repeat_interleave(times, 1)


def _show(figure: Figure, corner: Place, picture: np.ndarray, box: tuple[float, float]) -> None:
    """Show a picture in a box; its pixels stay sharp where it is enlarged."""
    enlarged = box[0] * DPI > picture.shape[1]
    place_image(figure, corner, picture, box=box, interpolation="nearest" if enlarged else "antialiased")
