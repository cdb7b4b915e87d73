"""What all experiments' commands share: options, the run with its progress, and the conclusion."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome
from layermask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.studies.store import Store
    from layermask.zoo.loaded import Loaded

_NAME = re.compile(r"[A-Za-z][\w-]*(:|$)")  # how the name of a segmenter, removal or order begins

Data = Annotated[
    Path, typer.Option(help="Folder of labelled pictures; see --kind.", show_default=False, **options.PATH)
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the pictures, if not that of their masks or saliency maps.",
        show_default=False,
        **options.PATH,
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
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=options.MOST,
        help="Only so many pictures, drawn by the seed; more of them may follow in the same --out.",
        show_default="all",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the random orders, and of the pictures drawn.", **options.SEED)]
Out = Annotated[
    Path, typer.Option(help="Folder for the results; a run that was stopped goes on there.", **options.PATH)
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out, and count, unreadable pictures.")]
Force = Annotated[bool, typer.Option("--force", help="Start over, whatever --out holds.")]

REMOVALS = "layermask,greyout,blackout"


def conduct(
    experiment: Any,
    *,
    data: Data,
    kind: Kind = "auto",
    images: Images = None,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = Path("evaluation"),
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    skip_unreadable: Skip = False,
    force: Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Run an experiment that compares removals, and print its first table."""
    from layermask.cli.jobs import load_model
    from layermask.data import open_source
    from layermask.studies import run

    if batch_size == "auto":
        experiment = replace(experiment, operator=halving)
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
        progress=progress(quiet, len(source)),
    )
    if not quiet:
        _conclude(store, say)


def command_of(make: Callable[..., Any]) -> Callable[..., None]:
    """Return the command with the options of `make`, which returns the experiment, and those of `conduct`.

    `make` may ask for `seed`, too.
    """
    shared = dict(list(signature(conduct, eval_str=True).parameters.items())[1:])
    own = signature(make, eval_str=True).parameters

    def command(**given: Any) -> None:
        with outcome(given["quiet"], options.less(given["batch_size"])):
            experiment = make(**{name: given[name] for name in own})
            conduct(experiment, **{name: given[name] for name in shared})

    places = [*shared.values()]
    after = list(shared).index("weights") + 1
    places[after:after] = [
        one.replace(kind=one.KEYWORD_ONLY) for one in own.values() if one.name not in shared
    ]
    command.__signature__ = Signature(places)  # type: ignore[attr-defined]  # which typer reads
    command.__annotations__ = {one.name: one.annotation for one in places}
    return command


def names(text: str, option: str) -> tuple[str, ...]:
    """Split at commas, but not at those within the parameters of a segmenter: slic:n_segments=50,sigma=1.

    Raises:
        InputError: `option` names nothing.
    """
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if found and part and not _NAME.match(part):
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    if not found:
        raise InputError(f"{option} {text!r} names nothing: give one, or more separated by commas")
    return tuple(found)


def halving(name: str, loaded: Loaded, segments: Tensor | None) -> Any:
    from layermask.removal.query import Halving
    from layermask.studies.protocol import from_table

    operator: Any = from_table(name, loaded, segments)
    return Halving(operator, lambda text: typer.echo(f"layermask: {text}", err=True))


def progress(quiet: bool, total: int, what: str = "evaluating") -> Any:
    """Return what says what an earlier run has done, and shows a bar over the rest."""

    def show(store: Store, left: int) -> Any:
        if quiet:
            return nullcontext(lambda done: None)
        from layermask.io.progress import bar

        for path in store.damaged:
            typer.echo(f"layermask: {path} is damaged: its images are done again", err=True)
        if left < total:
            typer.echo(f"{total - left} of {total} images were done by an earlier run", err=True)
        return bar(what, left) if left else nullcontext(lambda done: None)

    return show


def _conclude(store: Store, say: Callable[[str], None]) -> None:
    from layermask.studies.registry import experiment_of
    from layermask.studies.store import read_results

    columns, content = read_results(store.results)
    entry = experiment_of(content)
    table = entry.summarise(columns, content)[0].as_markdown()
    say("\n".join([*entry.words(columns, content), "", table, "", f"wrote {store.results}"]))
