"""`layermask plot DIR`: the figure and the tables of an experiment, again, from its results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome

Folder = Annotated[
    Path,
    typer.Argument(
        help="Folder of `layermask evaluate`, or its results.parquet.", metavar="DIR", parser=options.path
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for the files.", show_default="DIR", **options.PATH)
]
Rule = Annotated[
    str | None,
    typer.Option(
        help="For segments: the area under a curve is the mean of its points, or by trapezoid.",
        show_default="mean, as in the paper",
    ),
]
Hits = Annotated[
    int | None,
    options.count(
        "For shape: draw classes that the model predicts correctly in more images than this.",
        least=0,
        show_default="10, as in the paper",
    ),
]


def command(
    folder: Folder, rule: Rule = None, hits: Hits = None, out: Out = None, quiet: options.Quiet = False
) -> None:
    """Draw the figure and the tables of `layermask evaluate` from results.parquet alone.

    Writes results.png, the tables as results.md, and each as a CSV file. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet):
        from layermask.io.atomic import write_all
        from layermask.io.figure import png
        from layermask.studies.registry import experiment_of
        from layermask.studies.store import read_results

        columns, content = read_results(folder)
        entry = experiment_of(content)
        told = _options(entry, rule=rule, hits=hits)
        place = options.output(out or (folder if folder.is_dir() else folder.parent), (), "--out")
        tables = entry.summarise(columns, content, **told)
        head = "\n".join(entry.words(columns, content))
        page = [head, *(f"## {each.title}\n\n{each.as_markdown()}" for each in tables if each.on_page)]
        files = {
            place / "results.png": png(entry.sheet(columns, content, **told)),
            place / "results.md": ("\n\n".join(page) + "\n").encode(),
            **{place / f"{each.name}.csv": each.as_csv().encode() for each in tables},
        }
        write_all(files)
        written = ", ".join(path.name for path in files)
        options.printer(quiet)(f"{head}\n\n{tables[0].as_markdown()}\n\nwrote {written} in {place}")


def _options(entry: Any, **given: Any) -> dict[str, Any]:
    """Return the options that were given, if they mean anything to the experiment."""
    from layermask.errors import InputError

    found = {name: value for name, value in given.items() if value is not None}
    if found.get("rule", "mean") not in ("mean", "trapezoid"):
        raise InputError(f"rule {found['rule']!r}: choose mean or trapezoid")
    if useless := [name for name in found if name not in entry.options]:
        raise InputError(
            f"--{useless[0]} {found[useless[0]]} means nothing for results of {entry.home}: leave it out"
        )
    return found
