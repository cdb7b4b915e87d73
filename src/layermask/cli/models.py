"""`layermask models`: the names that --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome

Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help='Wildcard, as "timm/convnext*", or part of the name.')
]


def command(pattern: Pattern = "*", json: options.Json = False) -> None:
    """List the models that can be loaded by name; any model of the Hugging Face hub is hf/ORG/NAME.

    Exit status: 1 failed, 2 no such name.
    """
    with outcome():
        from json import dumps

        from layermask.errors import InputError
        from layermask.zoo import names

        wildcard = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
        found = list(names(wildcard))
        if not found:
            raise InputError(f"no model name matches {pattern!r}: `layermask models` lists them all")
        typer.echo(dumps(found) if json else "\n".join(found))
