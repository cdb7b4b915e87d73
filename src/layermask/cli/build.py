"""`layermask build`: compile the kernels ahead of the first forward pass."""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli.outcome import FAILED, outcome

Force = Annotated[bool, typer.Option("--force", help="Compile even if a compiled library exists.")]


def command(force: Force = False) -> None:
    """Compile the kernels that make forward passes on CPUs fast, and say where the library is.

    Without this command, the first forward pass that needs them compiles them. This needs a C compiler
    (cc, gcc or clang) and takes some seconds, once per machine.

    Exit status: 1 if there are no compiled kernels.
    """
    with outcome():
        from layermask.kernels import build, loader

        found = loader.find(force, lambda words: typer.echo(f"layermask: {words}", err=True))
        if found.kernels is None:
            typer.echo(f"layermask: no compiled kernels: {found.why}", err=True)
            raise typer.Exit(FAILED)
        count = len(build.sources())
        how = f"compiled {count} C files ({found.built})" if found.built else "already compiled"
        typer.echo(f"{how}: {found.path}")
