"""`layermask evaluate EXPERIMENT`: what a model says of many pictures under each removal, as a table.

One file per experiment of `EXPERIMENTS`, with a function `command`.
"""

from __future__ import annotations

import typer

from layermask.evaluate.table import EXPERIMENTS

app = typer.Typer(
    help="Measure a model and its removals on many labelled pictures; resumable.", no_args_is_help=True
)
for _name, _entry in EXPERIMENTS.items():
    app.command(_name, short_help=_entry.summary)(_entry.command)
