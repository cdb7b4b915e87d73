"""How a command ends: expected errors are one line on standard error and a status, never a traceback."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from layermask.errors import InputError, out_of_memory, printable

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


@contextmanager
def outcome(quiet: bool = False, memory: str = "--batch-size, or auto") -> Iterator[None]:
    """Turn what a command raises into an exit status; LAYERMASK_DEBUG=1 shows tracebacks instead.

    `memory`: what to make smaller when memory runs out.
    """
    try:
        with _warnings_in_one_line(quiet):
            yield
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except typer.Exit:
        raise
    except BrokenPipeError:  # nobody reads the output any more, as with `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(FAILED) from None
    except BaseException as error:  # SystemExit too: the model's code may raise it
        if os.environ.get("LAYERMASK_DEBUG"):
            raise
        if isinstance(error, InputError):
            _end(str(error), BAD_INPUT)
        _end(_describe(error, memory), FAILED)


@contextmanager
def _warnings_in_one_line(quiet: bool) -> Iterator[None]:
    """Show warnings for users in one line without a code location, and hide those for developers."""

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        typer.echo(f"layermask: warning: {' '.join(printable(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not quiet:
            warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def _describe(error: BaseException, memory: str) -> str:
    if out_of_memory(error):
        return f"out of memory: give a smaller {memory}"
    if type(error).__module__.startswith("layermask."):
        return str(error)  # written for users, as of an operation without a rule
    return f"{type(error).__name__}: {error} (LAYERMASK_DEBUG=1 shows where)"


def _end(message: str, status: int) -> None:
    typer.echo(f"layermask: {' '.join(printable(message).split())}", err=True)
    raise typer.Exit(status) from None
