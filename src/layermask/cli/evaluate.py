"""`layermask evaluate EXPERIMENT`: what a model says of many pictures under each removal, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.evaluate.store import Store
    from layermask.zoo.loaded import Loaded

_NAME = re.compile(r"[A-Za-z][\w-]*(:|$)")  # how the name of a segmenter, removal or order begins

app = typer.Typer(
    help="Measure a model and its removals on many labelled pictures; resumable.", no_args_is_help=True
)

Data = Annotated[Path, typer.Option(help="Folder of labelled pictures; see --kind.", show_default=False)]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the pictures, if not that of their masks or saliency maps.", show_default=False
    ),
]
Kind = Annotated[
    str,
    typer.Option(help="Layout: auto, folder, imagenet, imagenet-s, pixel-imagenet or salient-imagenet."),
]
Removals = Annotated[str, typer.Option(help="Removals, separated by commas; see docs/removals.md.")]
Segmentations = Annotated[
    str,
    typer.Option("--segments", help="Segmenters, separated by commas, as grid,slic:50,paper-quickshift."),
]
Orders = Annotated[str, typer.Option(help="random, salient-first, salient-last, separated by commas.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Only so many pictures, drawn by the seed.", show_default="all"),
]
Seed = Annotated[int, typer.Option(help="Of the random orders, and of the pictures drawn.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; a run that was stopped goes on there.")]
PlotOut = Annotated[Path | None, typer.Option("--out", help="Folder for the files.", show_default="DIR")]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out, and count, unreadable pictures.")]
Force = Annotated[bool, typer.Option("--force", help="Start over where --out holds other settings' results.")]


@app.command("segments")
def segments(
    data: Data,
    kind: Kind = "auto",
    images: Images = None,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    removals: Removals = "layermask,greyout,blackout",
    segmentations: Segmentations = "grid",
    orders: Orders = "random",
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = Path("evaluation"),
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    skip_unreadable: Skip = False,
    force: Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Hide 0, 10, ... 100 % of the segments and write what the model says: results.parquet, settings.json.

    Interrupted or killed, the same command goes on where it was. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet):
        from layermask.cli.scene import load_model
        from layermask.data import open_source
        from layermask.evaluate import SegmentRemoval, run

        experiment = SegmentRemoval(_names(removals), _names(segmentations), _names(orders), seed=seed)
        if batch_size == "auto":
            experiment = replace(experiment, operator=_halving)
        source = open_source(data, kind, images).pick(limit, seed)
        say = options.voice(quiet)
        say(source.summary)
        loaded, where = load_model(model, weights, device)
        store = run(
            experiment,
            loaded,
            source,
            out,
            weights=weights,
            device=where,
            batch_size=options.batch_size(batch_size, where),
            skip_unreadable=skip_unreadable,
            force=force,
            progress=_progress(quiet, len(source)),
        )
        _conclude(store, say)


def _names(text: str) -> tuple[str, ...]:
    """Split at commas, but not at those within the parameters of a segmenter: slic:n_segments=50,sigma=1."""
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if found and part and not _NAME.match(part):
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return tuple(found)


def _halving(name: str, loaded: Loaded, segments: Tensor | None) -> Any:
    from layermask.evaluate.segments import from_table
    from layermask.removal.halving import Halving

    operator: Any = from_table(name, loaded, segments)
    return Halving(operator, lambda text: typer.echo(f"layermask: {text}", err=True))


def _progress(quiet: bool, total: int) -> Any:
    """Return what says what an earlier run has done, and shows a bar over the rest."""

    def show(store: Store, left: int) -> Any:
        if quiet:
            return nullcontext(lambda done: None)
        from layermask.progress import bar

        for path in store.damaged:
            typer.echo(f"layermask: {path} is damaged: its images are done again", err=True)
        if left < total:
            typer.echo(f"{total - left} of {total} images were done by an earlier run", err=True)
        return bar("evaluating", left)

    return show


def _conclude(store: Store, say: Callable[[str], None]) -> None:
    from layermask.evaluate.store import read_results
    from layermask.evaluate.summary import as_text, curves, in_words

    columns, content = read_results(store.results)
    say("\n".join([*in_words(content), "", as_text(curves(columns)), "", f"wrote {store.results}"]))


Folder = Annotated[
    Path, typer.Argument(help="Folder of `layermask evaluate`, or its results.parquet.", metavar="DIR")
]


def plot(folder: Folder, out: PlotOut = None, quiet: options.Quiet = False) -> None:
    """Draw the results of `layermask evaluate` from results.parquet alone: curves as PNG and CSV, a table.

    Writes results.png, results.csv and results.md. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome(quiet):
        from layermask.draw.figure import png
        from layermask.evaluate.figure import segments_sheet
        from layermask.evaluate.store import read_results
        from layermask.evaluate.summary import as_csv, as_text, curves, in_words
        from layermask.files import output_folder, write_all

        columns, content = read_results(folder)
        place = output_folder(out or (folder if folder.is_dir() else folder.parent))
        found = curves(columns)
        table = "\n".join([*in_words(content), "", as_text(found), ""])
        write_all(
            {
                place / "results.png": png(segments_sheet(columns, content)),
                place / "results.csv": as_csv(found).encode(),
                place / "results.md": table.encode(),
            }
        )
        options.voice(quiet)(f"{table}\nwrote {place / 'results.png'}, results.csv and results.md")
