"""`layermask evaluate EXPERIMENT`: what a model says of many pictures under each removal, as a table.

One file per experiment of `EXPERIMENTS`, with a function `command`.
"""

from __future__ import annotations

import typer

from layermask.cli.evaluate import lime, linearity, operators, segments, shape
from layermask.studies.registry import EXPERIMENTS

COMMANDS = {
    each.__name__.rpartition(".")[2]: each.command for each in (segments, shape, linearity, lime, operators)
}

AFTER = (
    "Writes results.parquet and settings.json. Interrupted or killed, the same command goes on where it was. "
    "Exit status: 1 failed, 2 bad input, 130 interrupted."
)

app = typer.Typer(
    help="Measure a model and its removals on many labelled pictures; resumable.", no_args_is_help=True
)
for _name, _entry in EXPERIMENTS.items():
    app.command(_name, help=f"{_entry.summary}\n\n{AFTER}", short_help=_entry.summary)(COMMANDS[_name])
