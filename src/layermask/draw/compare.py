"""The sheet of `compare`: one picture under every removal, and feature maps at each stage of the model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.activations import FeatureMap
from layermask.draw.figure import DPI, MARGIN, fit_text, new_figure, place_axes
from layermask.draw.overlay import hidden_picture

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE, GAP, PER_ROW = 1.9, 0.2, 7  # inches, inches, pictures
TILE_HEIGHT = 0.25 + TILE + 0.27 + 0.15 + 0.42 + 0.12  # name, picture, two classes, summary, space
ROW_NAMES, NARROWEST, WIDEST, BETWEEN = 1.15, 1.0, 1.6, 0.08  # of the feature maps, inches
LINE, HEADING, NUMBER = 0.15, 0.42, 0.22  # inches
SAME, OTHER, FAINT = "#9ec3e6", "#f2c38f", "0.4"


@dataclass(frozen=True)
class Tile:
    """One removal: `picture` (H, W, 3) uint8 as the model sees it, and the class it finds most likely.

    `usual`: the class that it finds most likely in the whole image, where that is another one.
    """

    name: str
    summary: str
    picture: np.ndarray
    label: str
    probability: float
    usual: tuple[str, float] | None = None


@dataclass(frozen=True)
class Column:
    """One place in the model: its maps (1, h, w), by row; `off`: how far rows are from the first."""

    heading: tuple[str, str]
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

    `inputs`: what enters the model in each row of the grid, (H, W, 3) uint8. `notes` are set at the foot.
    """
    across = math.ceil(len(tiles) / math.ceil(len(tiles) / PER_ROW))
    left_for_maps = ROW_NAMES + (1 + len(columns)) * (NARROWEST + BETWEEN) if columns else 0
    room = max(across * (TILE + GAP) - GAP, left_for_maps, 4 * TILE)
    lines = [line for note in notes for line in textwrap.wrap(note, int(room * 15))]
    rows = math.ceil(len(tiles) / across)
    side = _side(room, len(columns))
    grid = HEADING + 0.3 + len(inputs) * (side + NUMBER) + 0.25 if columns else 0
    height = 2 * MARGIN + 0.3 + rows * TILE_HEIGHT + grid + LINE * len(lines)
    figure = new_figure(room + 2 * MARGIN, height, title)
    top = height - MARGIN - 0.3
    for index, tile in enumerate(tiles):
        down, right = divmod(index, across)
        _draw_tile(figure, MARGIN + right * (TILE + GAP), top - down * TILE_HEIGHT, tile)
    if columns:
        _draw_grid(figure, top - rows * TILE_HEIGHT, side, inputs, columns)
    for index, line in enumerate(lines):
        _say(figure, MARGIN, MARGIN + LINE * (len(lines) - 1 - index), line, fontsize=8, color=FAINT)
    return figure


def _side(room: float, columns: int) -> float:
    """Return how wide a feature map is."""
    return min(WIDEST, (room - ROW_NAMES + BETWEEN) / (columns + 1) - BETWEEN)


def _draw_tile(figure: Figure, x: float, y: float, tile: Tile) -> None:
    """Draw a removal below its upper left corner."""
    same = tile.usual is None
    _say(figure, x, y - 0.13, tile.name, TILE, fontsize=9.5, weight="bold")
    _show(figure, (x, y - 0.25 - TILE), TILE, tile.picture)
    bar = place_axes(figure, (x, y - 0.25 - TILE - 0.25), TILE, 0.22)
    bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    bar.barh(0, tile.probability, height=1, color=SAME if same else OTHER)
    _say(figure, x + 0.05, y - TILE - 0.39, f"{'✓' if same else '✗'} {tile.label}", 1.3, fontsize=9)
    amount = f"{100 * tile.probability:.1f} %"
    _say(figure, x + TILE - 0.04, y - TILE - 0.39, amount, fontsize=9, ha="right")
    y -= TILE + 0.6
    if tile.usual:
        name, probability = tile.usual
        _say(figure, x + 0.05, y, name, 1.3, fontsize=8, color=FAINT)
        _say(figure, x + TILE - 0.04, y, f"{100 * probability:.1f} %", fontsize=8, ha="right", color=FAINT)
        y -= LINE
    for index, line in enumerate(textwrap.wrap(tile.summary, 36)[:3]):
        _say(figure, x, y - index * 0.13, line, TILE, fontsize=7, color=FAINT)


def _draw_grid(
    figure: Figure, top: float, side: float, inputs: Mapping[str, np.ndarray], columns: Sequence[Column]
) -> None:
    _say(figure, MARGIN, top - 0.1, "Inside the model", fontsize=10.5, weight="bold")
    first = MARGIN + ROW_NAMES
    start = top - 0.3 - HEADING
    _say(figure, first, start + 0.1, "input", side, fontsize=8)
    for row, (name, picture) in enumerate(inputs.items()):
        y = start - row * (side + NUMBER) - side
        for index, line in enumerate(name.split("\n")):
            _say(figure, MARGIN, y + side - 0.1 - index * LINE, line, ROW_NAMES, fontsize=8.5)
        _show(figure, (first, y), side, picture)
    for index, column in enumerate(columns):
        _draw_column(figure, (first + (index + 1) * (side + BETWEEN), start), side, column)


def _draw_column(figure: Figure, corner: tuple[float, float], side: float, column: Column) -> None:
    x, start = corner
    limits = column.limits()
    for index, line in enumerate(reversed(column.heading)):
        _say(figure, x, start + 0.1 + index * LINE, line, side, fontsize=7.5)
    for row, (name, each) in enumerate(column.maps.items()):
        y = start - row * (side + NUMBER) - side
        _show(figure, (x, y), side, map_picture(each, limits))
        if (off := column.off.get(name)) is not None:
            _say(figure, x + side, y - 0.08, f"off by {100 * off:.0f} %", side, fontsize=7, ha="right")
    y = start - len(column.maps) * (side + NUMBER) - 0.02
    ramp = place_axes(figure, (x, y - 0.06), side, 0.06)
    ramp.imshow(torch.linspace(0, 1, 64)[None].numpy(), cmap="gray", aspect="auto")
    _say(figure, x, y - 0.14, f"{limits[0]:.2g}", fontsize=6.5)
    _say(figure, x + side, y - 0.14, f"{limits[1]:.2g}", fontsize=6.5, ha="right")


def map_picture(each: FeatureMap, limits: tuple[float, float], size: int = 224) -> np.ndarray:
    """Return a map (1, h, w) in grey, enlarged to about `size` pixels, with a checkerboard where hidden."""
    low, high = limits
    level = ((each.values[0] - low) / ((high - low) or 1)).clamp(0, 1)
    times = max(1, round(size / max(level.shape)))
    grey = _enlarged((255 * level).round().to(torch.uint8), times)
    return hidden_picture(grey[..., None].expand(-1, -1, 3).numpy(), _enlarged(each.visible, times))


def _enlarged(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, 0).repeat_interleave(times, 1)


def _show(figure: Figure, corner: tuple[float, float], side: float, picture: np.ndarray) -> Axes:
    axes = place_axes(figure, corner, side, side)
    # every pixel of a sheet is an average of those of the picture that it covers: no moiré in checkerboards
    enlarged = side * DPI > max(picture.shape[:2])
    axes.imshow(picture, interpolation="nearest" if enlarged else "antialiased")
    return axes


def _say(figure: Figure, x: float, y: float, words: str, room: float | None = None, **style: object) -> None:
    """Write one line whose left end (right, with ha) is at x and whose middle is at y, in inches."""
    wide, tall = figure.get_size_inches()
    text = figure.text(x / wide, y / tall, words, va="center", parse_math=False, **style)  # type: ignore[arg-type]
    if room is not None:
        fit_text(text, room)
