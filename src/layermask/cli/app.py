"""The commands and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli import (
    audit,
    build,
    check,
    compare,
    doctor,
    evaluate,
    explain,
    export,
    fit,
    models,
    options,
    plot,
    predict,
    segments,
)

app = typer.Typer(
    help="Ask a pretrained vision model about only the visible part of an image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("explain", cls=options.Command)(explain.command)
app.command("predict", cls=options.Command)(predict.command)
app.command("compare")(compare.command)
app.command("check")(check.command)
app.command("audit")(audit.command)
app.add_typer(evaluate.app, name="evaluate")
app.command("plot")(plot.command)
app.command("fit")(fit.command)
app.command("export")(export.command)
app.command("segments")(segments.command)
app.command("models")(models.command)
app.command("build")(build.command)
app.command("doctor")(doctor.command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"layermask {version('layermask')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
