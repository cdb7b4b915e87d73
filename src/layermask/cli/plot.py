"""`layermask plot DIR`: the figure and the tables of an experiment, again, from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome

Folder = Annotated[
    Path, typer.Argument(help="Folder of `layermask evaluate`, or its results.parquet.", metavar="DIR")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the files.", show_default="DIR")]
Rule = Annotated[
    str | None,
    typer.Option(
        help="Area under a curve: mean of its points, or trapezoid.", show_default="mean, as in the paper"
    ),
]


def command(folder: Folder, rule: Rule = None, out: Out = None, quiet: options.Quiet = False) -> None:
    """Draw the results of `layermask evaluate` from results.parquet alone.

    Writes results.png, the tables as results.md, and each as a CSV file. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet):
        from layermask.draw.figure import png
        from layermask.evaluate.store import read_results
        from layermask.evaluate.table import experiment_of
        from layermask.files import output_folder, write_all

        columns, content = read_results(folder)
        entry = experiment_of(content)
        tables = entry.summarise(columns, content, **_options(rule, entry))
        place = output_folder(out or (folder if folder.is_dir() else folder.parent))
        head = "\n".join(entry.words(columns, content))
        page = [head, *(f"## {each.title}\n\n{each.as_markdown()}" for each in tables if each.on_page)]
        files = {
            place / "results.png": png(entry.sheet(columns, content)),
            place / "results.md": ("\n\n".join(page) + "\n").encode(),
            **{place / f"{each.name}.csv": each.as_csv().encode() for each in tables},
        }
        write_all(files)
        written = ", ".join(path.name for path in files)
        options.voice(quiet)(f"{head}\n\n{tables[0].as_markdown()}\n\nwrote {written} in {place}")


def _options(rule: str | None, entry: Any) -> dict[str, Any]:
    from layermask.errors import InputError

    if rule is None:
        return {}
    if rule not in ("mean", "trapezoid"):
        raise InputError(f"rule {rule!r}: choose mean or trapezoid")
    if not entry.has_areas:
        raise InputError(
            f"--rule {rule} is for areas under curves, and these results have none: leave it out"
        )
    return {"rule": rule}
