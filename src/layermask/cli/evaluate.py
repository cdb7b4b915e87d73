"""`layermask evaluate EXPERIMENT`: what a model says of many pictures under each removal, as a table.

`STUDIES` has the options that each experiment adds to those that all share.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome
from layermask.errors import InputError
from layermask.studies.registry import EXPERIMENTS

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

Orders = Annotated[str, typer.Option(help="random, salient-first, salient-last, separated by commas.")]
Patches = Annotated[str, typer.Option(help="Sizes of square patches in pixels, separated by commas.")]
Of = Annotated[
    str, typer.Option(help="What is summed: features, what the head of the model reads, or logits.")
]
Head = Annotated[
    str | None,
    typer.Option(help="Name of the head's module, if features.", show_default="the last linear layer"),
]
Samples = Annotated[
    int, typer.Option(min=1, max=options.MANY, help="Random masks per picture, segmentation and removal.")
]
TopK = Annotated[
    int, typer.Option("--k", min=1, max=options.MOST, help="Highest segments to compare and to hide.")
]
Among = Annotated[
    int,
    typer.Option(
        min=1,
        max=options.MOST,
        help="Leave out pictures whose label is not among so many likeliest classes.",
    ),
]
Ablation = Annotated[str, typer.Option(help="The removal that hides the highest segments.")]
Explain = Annotated[str, typer.Option(help="The class explained: label, or the plain model's prediction.")]
Methods = Annotated[
    str,
    typer.Option(
        help="Attributions to rank, separated by commas: random, gradient, input-x-gradient, or an explainer "
        "of `layermask explain` @ the removal it asks by; without @, each removal ranks its own.",
        show_default="random,gradient,input-x-gradient, leave-one-out and lime @greyout and @layermask",
    ),
]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Steps in which the segments are hidden.")]
RandomOrders = Annotated[
    int, typer.Option("--n-orders", min=1, max=100_000, help="Random orders per picture.")
]
PerSegment = Annotated[
    int, typer.Option(min=2, max=100_000, help="Masks per segment of methods that draw them.")
]

COMPARED = (Removals, "layermask,greyout,blackout")
STUDIES: dict[str, dict[str, tuple[Any, Any]]] = {
    "segments": {
        "seed": (Seed, 0),
        "removals": COMPARED,
        "segmentations": (Segmentations, "grid"),
        "orders": (Orders, "random"),
    },
    "shape": {"removals": COMPARED},
    "linearity": {
        "removals": COMPARED,
        "patches": (Patches, "32"),
        "of": (Of, "features"),
        "head": (Head, None),
    },
    "lime": {
        "seed": (Seed, 0),
        "removals": COMPARED,
        "segmentations": (Segmentations, "paper-lime-quickshift,paper-grid,paper-lime-slic"),
        "n_samples": (Samples, 512),
        "k": (TopK, 20),
        "among": (Among, 3),
        "ablation": (Ablation, "greyout"),
        "explain": (Explain, "label"),
    },
    "operators": {
        "seed": (Seed, 0),
        "removals": COMPARED,
        "segmentations": (Segmentations, "slic:50"),
        "methods": (Methods, ""),
        "steps": (Steps, 10),
        "n_orders": (RandomOrders, 5),
        "samples": (PerSegment, 4),
    },
}
"""experiment -> its own options, which are fields of its class: what typer reads of each, and its default."""


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


def _command(experiment: str) -> Callable[..., None]:
    """Return the command with the options of an experiment and those of `conduct`."""
    shared = dict(list(signature(conduct, eval_str=True).parameters.items())[1:])
    own = {
        name: Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in STUDIES[experiment].items()
    }

    def command(**given: Any) -> None:
        with outcome(given["quiet"], options.less(given["batch_size"])):
            study = _study(experiment, {name: given[name] for name in own})
            conduct(study, **{name: given[name] for name in shared})

    places = [*shared.values()]
    after = list(shared).index("weights") + 1
    places[after:after] = [one for one in own.values() if one.name not in shared]
    command.__signature__ = Signature(places)  # type: ignore[attr-defined]  # which typer reads
    command.__annotations__ = {one.name: one.annotation for one in places}
    return command


def _study(experiment: str, given: dict[str, Any]) -> Any:
    read: dict[str, Callable[[str], tuple]] = {
        "removals": lambda text: names(text, "--removals"),
        "segmentations": lambda text: names(text, "--segments"),
        "orders": lambda text: names(text, "--orders"),
        "patches": numbers,
        "methods": lambda text: tuple(filter(None, (part.strip() for part in text.split(",")))),
    }
    fields = {name: read[name](value) if name in read else value for name, value in given.items()}
    if fields.get("methods") == ():  # those that the class has
        del fields["methods"]
    return EXPERIMENTS[experiment].experiment(**fields)


def numbers(text: str) -> tuple[int, ...]:
    """Return the sizes of patches that a text lists.

    Raises:
        InputError: it lists something else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"patches {text!r}: give whole numbers of pixels, separated by commas, as 16,32")
    return tuple(map(int, parts))


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


AFTER = (
    "Writes results.parquet and settings.json. Interrupted or killed, the same command goes on where it was. "
    "Exit status: 1 failed, 2 bad input, 130 interrupted."
)

app = typer.Typer(
    help="Measure a model and its removals on many labelled pictures; resumable.", no_args_is_help=True
)
for _name, _entry in EXPERIMENTS.items():
    app.command(_name, help=f"{_entry.summary}\n\n{AFTER}", short_help=_entry.summary)(_command(_name))
