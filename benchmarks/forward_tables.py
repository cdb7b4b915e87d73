"""The sections of docs/benchmarks.md on time and memory of a forward pass."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from cells import GRID, Cell, Slice
from markup import Line, by_machine, heading, table, title, where
from timing import ratios, spread
from workload import UNCOMPILED

NO_GPU = "Not measured: no GPU at hand"
PUBLISHED = "published"
SIDES = {
    "grey fill": "grey fill",
    "dense": "dense",
    "sparse": "sparse",
    "auto": "auto",
    UNCOMPILED: "sparse, not compiled",
    PUBLISHED: "the paper's algorithm, written plainly",
}
AXES = {
    "model": lambda cell: cell.model,
    "mask": lambda cell: cell.mask,
    "hidden": lambda cell: f"{cell.hidden:.0%}",
    "dtype": lambda cell: cell.dtype,
    "batch": lambda cell: str(cell.batch),
    "mode": lambda cell: cell.mode,
    "memory format": lambda cell: cell.layout,
}
ABOUT = """One forward pass of pictures of 224x224, models with random weights: milliseconds of the plain
model, and how many times as long the others take. Grey fill paints hidden pixels and runs the plain model;
dense, sparse and auto are the engines of `LayerMasking`; the last is algorithm 1, nothing saved, for ResNets.
All sides have the model, dtype, memory format and mode of their row, every mask is new, and torch's defaults
hold (TF32 too). Patches: scattered ones of 16x16 pixels. Block: one rectangle of that area.""".splitlines()


def forward_section(lines: Iterable[Line]) -> list[str]:
    groups = by_machine(lines)
    out = list(ABOUT)
    for group in groups:
        device = group[0]["machine"]["device"]
        out += ["", heading(group), "", where(group)]
        out += _tables(device, {line["name"]: line for line in group})
        out += _notes(group)
    if not any(group[0]["machine"]["device"] == "cuda" for group in groups):
        out += ["", f"### {title('cuda')}", "", f"{NO_GPU}.", *_tables("cuda", {})]
    return out


def _tables(device: str, found: dict[str, Line]) -> list[str]:
    out, missing = [], []
    for number, part in enumerate(GRID[device]):
        cells = list(part.cells(device))
        some = [cell for cell in cells if cell.name in found]
        if some or not (number or found):  # of a machine that measured nothing, the first table, empty
            out += ["", *_table(part, some or cells, found)]
        if len(some) < len(cells) and (number or found):
            missing.append(f"{part.title} ({len(cells) - len(some)} of {len(cells)} rows)")
    if missing:
        out += ["", f"{'Not measured yet' if found else NO_GPU}: {'; '.join(missing)}."]
    return out


def _table(part: Slice, cells: Sequence[Cell], found: dict[str, Line]) -> list[str]:
    values = {axis: [text(cell) for cell in part.cells(cells[0].device)] for axis, text in AXES.items()}
    varying = [axis for axis, texts in values.items() if len(set(texts)) > 1]
    fixed = [_said(axis, texts[0]) for axis, texts in values.items() if axis not in varying]
    unfit = {PUBLISHED: "resnet50" not in part.models, UNCOMPILED: "compile" not in part.modes}
    sides = [side for side in SIDES if not unfit.get(side)]
    head = [*varying, "plain, ms", *(SIDES[side] for side in sides)]
    rows = [
        [*(AXES[axis](cell) for axis in varying), *_figures(found.get(cell.name), sides)] for cell in cells
    ]
    return [f"**{part.title}**: {', '.join(fixed)}.", "", *table(head, rows)]


def _said(axis: str, text: str) -> str:
    return {"batch": f"batch {text}", "hidden": f"{text} hidden"}.get(axis, text)


def _figures(line: Line | None, sides: Sequence[str]) -> list[str]:
    if line is None:
        return [NO_GPU, *[""] * len(sides)]
    wall = line["wall"]
    times = [spread(ratios(wall, side)) if side in wall else _absent(line, side) for side in sides]
    return [f"{1000 * statistics.median(wall['plain']):.1f}", *times]


def _absent(line: Line, side: str) -> str:
    return "error" if side in line["errors"] else ""


def _notes(lines: Sequence[Line]) -> list[str]:
    """How auto fares against dense, how far answers are apart, and what did not run."""
    notes = []
    both = [line for line in lines if {"auto", "dense"} <= line["wall"].keys()]
    if both:
        slowest, line = max(((_against_dense(line), line) for line in both), key=lambda pair: pair[0])
        notes.append(f"Auto takes at most {slowest:.2f} times what dense does ({line['name']}).")
    for dtype in sorted({line["cell"]["dtype"] for line in lines}):
        those = [
            apart for line in lines if line["cell"]["dtype"] == dtype for apart in line["apart"].values()
        ]
        if those:
            notes.append(
                f"{dtype}: answers of sparse and auto differ from dense's by at most {max(those):.0e} of the "
                "largest."
            )
    errors = {(side, why): line for line in lines for side, why in line["errors"].items()}
    notes += [f"Error of {side} in {line['name']}: {why}" for (side, why), line in errors.items()]
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _against_dense(line: Line) -> float:
    return statistics.median(ratios(line["wall"], "auto", "dense"))


def memory_section(lines: Iterable[Line]) -> list[str]:
    out = [
        "What a forward pass takes above model and images, in MiB: its peak, and what it keeps from call to",
        "call. Ratios to plain in brackets. On a CPU measured by pages in use, in a process of its own.",
    ]
    groups = [[line for line in group if line["memory"]] for group in by_machine(lines)]
    for group in filter(None, groups):
        out += ["", heading(group), "", where(group), ""]
        head = [*AXES, "plain", *SIDES.values()]
        out += table(head, (_memory_row(line) for line in group if line["cell"]["hidden"] == 0.5))
    if not any(group and group[0]["machine"]["device"] == "cuda" for group in groups):
        out += ["", f"### {title('cuda')}", "", f"{NO_GPU}."]
    return out


def _memory_row(line: Line) -> list[str]:
    cell, peaks = Cell(**line["cell"]), line["memory"]
    figures = [
        f"{peaks[side]:.0f} ({peaks[side] / peaks['plain']:.2f})" if side in peaks else "" for side in SIDES
    ]
    return [*(text(cell) for text in AXES.values()), f"{peaks['plain']:.0f}", *figures]
