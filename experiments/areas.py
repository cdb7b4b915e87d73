"""Areas under the curves of a kept run, beside the figures that others printed."""

from __future__ import annotations

from typing import Any

from setting import RESULTS

from layermask.io.atomic import write_all
from layermask.io.figure import png
from layermask.metrics.bootstrap import Estimate
from layermask.render.table import Cell
from layermask.studies import read_results
from layermask.studies.registry import Content, experiment_of

Areas = dict[tuple[str, ...], dict[str, Cell]]
NAMES = {"blackout": "black", "greyout": "grey", "layermask": "layer masking"}


def kept(name: str) -> tuple[dict[str, Any], Content]:
    """Return the rows of a run that are kept beside the experiments."""
    return read_results(RESULTS / f"{name}.parquet")


def areas(columns: Any, content: Content) -> Areas:
    """Return by (removal, segmentation, order) the area of every metric, with its interval."""
    table = experiment_of(content).summarise(columns, content)[0]
    return {tuple(row[:3]): dict(zip(table.header, row, strict=True)) for row in table.rows}


def drawing(name: str) -> str:
    """Draw the figure of a kept run, and return the line that shows it."""
    columns, content = kept(name)
    write_all({RESULTS / f"{name}.png": png(experiment_of(content).sheet(columns, content))})
    return f"![{name}](results/{name}.png)"


def cell(value: Cell, digits: int = 3) -> str:
    """Return a number as tables have it, its interval in brackets."""
    if isinstance(value, Estimate):
        return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def rows(header: list[str], body: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return [f"| {' | '.join(line)} |" for line in lines]
