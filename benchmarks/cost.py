"""How the cost of layer masking grows with what is visible: docs/pictures/cost.png, from lines of results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cells import GRID, Cell
from markup import Line, by_machine, heading, table, where
from timing import ratios, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENGINES = {"dense": ("#00659d", "-"), "sparse": ("#d55e00", "-"), "auto": ("#009e73", ":")}
TITLES = {"patches": "scattered patches hidden", "block": "one block hidden"}
PART = "From all to little visible"


@dataclass
class Panel:
    """One machine and kind of mask: lines in the order of what is visible."""

    mask: str
    lines: list[Line]

    @property
    def device(self) -> str:
        return self.lines[0]["machine"]["device"]


def points(lines: Iterable[Line]) -> list[Panel]:
    """The panels that have three points or more."""
    parts = {device: next(part for part in GRID[device] if part.title == PART) for device in GRID}
    names = {cell.name for device, part in parts.items() for cell in part.cells(device)}
    panels = []
    for group in by_machine(line for line in lines if line["name"] in names):
        for mask in TITLES:
            those = [line for line in group if line["cell"]["mask"] == mask]
            panels.append(Panel(mask, sorted(those, key=lambda line: line["visible"])))
    return [panel for panel in panels if len(panel.lines) > 2]


def plot(panels: list[Panel], path: Path) -> None:
    """Draw a panel per machine and kind of mask, two in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 3.9 * rows), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[:, 0]:
        axes.set_ylabel("time / plain forward", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("visible part of the pixels", fontsize=9)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Software": "layermask"})
    print(f"wrote {path.name}")


def _draw(axes: Axes, panel: Panel) -> None:
    shares = [line["visible"] for line in panel.lines]
    for engine, (color, style) in ENGINES.items():
        found = [
            (x, ratios(line["wall"], engine))
            for x, line in zip(shares, panel.lines, strict=True)
            if engine in line["wall"]
        ]
        if not found:
            continue
        x = [share for share, _ in found]
        low, middle, high = zip(*(_quartiles(each) for _, each in found), strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            x, middle, color=color, linestyle=style, marker="o", markersize=3.5, linewidth=2, label=engine
        )
    axes.axhline(1, color="0.35", linewidth=1, label="the plain model")
    axes.plot([0, 1], [0, 1], color="0.35", linewidth=1, linestyle="--", label="the visible part")
    cell = Cell(**panel.lines[0]["cell"])
    machine = {"cpu": "CPU", "cuda": panel.lines[0]["machine"]["name"]}[panel.device]
    axes.set_title(
        f"ResNet-50, {machine}, {cell.dtype}, batch {cell.batch}: {TITLES[panel.mask]}", fontsize=8.5
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    middle = statistics.median(values)
    if len(values) < 3:
        return middle, middle, middle
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def cost_section(panels: list[Panel]) -> list[str]:
    """The picture, and its figures."""
    out = [
        "![Time of each engine over that of the plain model, against the visible part](pictures/cost.png)",
        "",
        "Medians, with the middle half of the rounds as a band. The dashed line is the visible part itself. "
        "The sparse engine is below it where taking norms and activations into its kernels saves more than "
        "the growth of the masks costs.",
    ]
    for number, panel in enumerate(panels):
        if not number or heading(panel.lines) != heading(panels[number - 1].lines):
            out += ["", heading(panel.lines)]
        out += ["", f"{TITLES[panel.mask].capitalize()}. {where(panel.lines)}", ""]
        rows = [
            [f"{line['visible']:.2f}", *(_figure(line, engine) for engine in ENGINES)] for line in panel.lines
        ]
        out += table(["visible part", *ENGINES], rows)
    return out


def _figure(line: Line, engine: str) -> str:
    return spread(ratios(line["wall"], engine)) if engine in line["wall"] else ""
