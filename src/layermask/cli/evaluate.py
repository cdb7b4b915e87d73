"""`layermask evaluate EXPERIMENT`: what a model says of many pictures under each removal, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from layermask.cli import options
from layermask.cli.outcome import outcome
from layermask.errors import InputError, import_optional
from layermask.io.progress import bar
from layermask.studies.registry import EXPERIMENTS, experiment_of

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.studies.store import Store
    from layermask.zoo.loaded import Loaded

_NAME = re.compile(r"[A-Za-z][\w-]*([:@]|$)")  # how the name of a segmenter, removal, order or method begins

Data = Annotated[
    Path, typer.Option(help="Folder of labelled pictures; see --kind.", show_default=False, **options.PATH)
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the pictures, if they do not lie beside their masks or saliency maps.",
        show_default=False,
        **options.PATH,
    ),
]
Kind = Annotated[
    str,
    typer.Option(help="Layout: auto, folder, imagenet, imagenet-s, pixel-imagenet or salient-imagenet."),
]
Limit = Annotated[
    int | None,
    options.count(
        "Use this many pictures, chosen at random by --seed. A later run with a larger limit can continue in "
        "the same --out.",
        show_default="all",
    ),
]
Seed = Annotated[
    int, typer.Option(help="Random seed for the orders and the choice of pictures.", **options.SEED)
]
Out = Annotated[
    Path, typer.Option(help="Folder for the results. A stopped run continues there.", **options.PATH)
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Skip and count unreadable pictures.")]
Force = Annotated[bool, typer.Option("--force", help="Start over, whatever --out holds.")]

OPTIONS: dict[str, Any] = {
    "removals": typer.Option("--removals", help="Removals, separated by commas; see docs/removals.md."),
    "segmentations": typer.Option(
        "--segments", help="Segmenters, separated by commas, as grid,slic:50,paper-quickshift."
    ),
    "orders": typer.Option(help="random, salient-first, salient-last, separated by commas."),
    "patches": typer.Option(help="Sizes of square patches in pixels, separated by commas."),
    "of": typer.Option(help="What is summed: features, the input of the model's head, or logits."),
    "head": typer.Option(
        help="Name of the head's module, if features.", show_default="the last linear layer"
    ),
    "n_samples": options.count("Random masks per picture, segmentation and removal.", most=options.MANY),
    "k": options.count("Number of highest segments to compare and to hide."),
    "among": options.count("Leave out pictures whose label is not among this many likeliest classes."),
    "ablation": typer.Option(help="The removal that hides the highest segments."),
    "explain": typer.Option(help="The class explained: label, or the plain model's prediction."),
    "methods": typer.Option(
        help="Attributions to rank, separated by commas: random, gradient, input-x-gradient, or "
        "EXPLAINER@REMOVAL, with an explainer of `layermask explain` and the removal that it uses. Without "
        "@REMOVAL, each removal ranks its own."
    ),
    "output": typer.Option(help="What confidences are: probability, softmax, sigmoid or logit."),
    "steps": options.count("Steps in which the segments are hidden.", most=1000),
    "n_orders": options.count("Random orders per picture.", most=100_000),
    "samples": options.count(
        "Masks per segment, for methods that draw masks at random.", "--n-samples", least=2, most=100_000
    ),
}
"""The fields of experiments that are options, and what typer reads of each."""

Removals = Annotated[str, OPTIONS["removals"]]
Segmentations = Annotated[str, OPTIONS["segmentations"]]


def conduct(
    experiment: Any,
    *,
    data: Data,
    kind: Kind = "auto",
    images: Images = None,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    fitted: options.Fitted = None,
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
    print_line = options.printer(quiet)
    print_line(source.summary)
    loaded, where = load_model(model, weights, device, fitted=fitted)
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
        _conclude(store, print_line)


def _command(experiment: str) -> Callable[..., None]:
    """Return the command with the options of an experiment, read off its fields, and those of `conduct`."""
    study = EXPERIMENTS[experiment].experiment
    shared = dict(list(signature(conduct, eval_str=True).parameters.items())[1:])
    defaults = {field.name: field.default for field in fields(study) if field.name in {*OPTIONS, "seed"}}
    own = {name: _option(name, defaults[name]) for name in OPTIONS if name in defaults}

    def command(**given: Any) -> None:
        with outcome(given["quiet"], options.less(given["batch_size"])):
            import_optional("pyarrow.parquet", "evaluate")  # before anything is loaded or listed
            values = {name: _value(name, given[name], default) for name, default in defaults.items()}
            conduct(study(**values), **{name: given[name] for name in shared})

    places = [*shared.values()]
    after = list(shared).index("weights") + 1
    places[after:after] = own.values()
    command.__signature__ = Signature(places)  # type: ignore[attr-defined]  # which typer reads
    command.__annotations__ = {one.name: one.annotation for one in places}
    return command


def _option(name: str, default: Any) -> Parameter:
    text = ", ".join(map(str, default)) if isinstance(default, tuple) else default  # which help can wrap
    kind = str | None if text is None else type(text)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=text, annotation=Annotated[kind, OPTIONS[name]])


def _value(name: str, given: Any, default: Any) -> Any:
    """Return an option as a field takes it: a list of names or sizes where the default is one."""
    if not isinstance(default, tuple):
        return given
    if isinstance(default[0], int):
        return numbers(given)
    return names(given, "--segments" if name == "segmentations" else f"--{name}")


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
    """Return the removal of a name, which takes smaller batches when memory runs out, and prints that."""
    from layermask.removal.query import Halving
    from layermask.studies.protocol import from_table

    operator: Any = from_table(name, loaded, segments)
    return Halving(operator, lambda text: typer.echo(f"layermask: {text}", err=True))


def progress(quiet: bool, total: int, what: str = "evaluating") -> Any:
    """Return a function that reports what an earlier run has done, and shows a bar over the rest."""

    def show(store: Store, left: int) -> Any:
        if quiet:
            return nullcontext(lambda done: None)
        for path in store.damaged:
            typer.echo(f"layermask: {path} is damaged: its images are done again", err=True)
        if left < total:
            typer.echo(f"{total - left} of {total} images were done by an earlier run", err=True)
        return bar(what, left) if left else nullcontext(lambda done: None)

    return show


def _conclude(store: Store, print_line: Callable[[str], None]) -> None:
    from layermask.studies.store import read_results

    columns, content = read_results(store.results)
    entry = experiment_of(content)
    table = entry.summarise(columns, content)[0].as_markdown()
    print_line("\n".join([*entry.words(columns, content), "", table, "", f"wrote {store.results}"]))


AFTER = (
    "Writes results.parquet and settings.json. If it is interrupted or killed, the same command continues. "
    "Exit status: 1 failed, 2 bad input, 130 interrupted."
)


class _Experiments(TyperGroup):
    """Imports an experiment, to read its options off its fields, only when its command is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, left = super().resolve_command(ctx, args)
        if name is None:
            return name, command, left
        whole = typer.Typer(add_completion=False)
        whole.command(name, cls=options.Command, help=f"{EXPERIMENTS[name].summary}\n\n{AFTER}")(
            _command(name)
        )
        return name, typer.main.get_command(whole), left


app = typer.Typer(
    cls=_Experiments,
    help="Measure a model and its removals on many labelled pictures; resumable.",
    no_args_is_help=True,
)
for _name, _entry in EXPERIMENTS.items():
    app.command(_name, short_help=_entry.summary)(lambda: None)
