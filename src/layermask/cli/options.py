"""The options that several commands share, and how they are read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from layermask.arguments.numbers import LARGEST_SEED
from layermask.errors import InputError, printable
from layermask.io.atomic import check_outputs, expanded, output_folder

if TYPE_CHECKING:
    import torch

    from layermask.removal.reading import OutputName

MOST = 2**31 - 1  # no count is larger
SIDE = 4096  # pixels of random images: larger ones only take longer
MANY = 10_000_000  # masks: a day at 10 ms each


def path(text: str | Path) -> Path:
    """Return what a path option names, `~` as the home folder; the one place where paths are read."""
    if not str(text).strip():
        raise typer.BadParameter("the name is empty: give a path, or . for the current folder")
    if "\0" in str(text):
        raise typer.BadParameter("a path holds no NUL character")
    return expanded(text)


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


PATH: Any = {"parser": path, "metavar": "PATH"}
SEED: Any = {"min": 0, "max": LARGEST_SEED}
FINITE: Any = {"callback": _finite}
MASK: Any = typer.Option(
    help="Mask file: white pixels are visible, black ones hidden; or polygons of labelme or COCO (.json), "
    "visible inside. Of the picture's shape, or of the size of the model's input. Soft edges are cut at half "
    "of white; erased backgrounds are hidden. Or a folder with one mask per picture, of the same name.",
    show_default=False,
    **PATH,
)
FORMS = "builtin, torchvision/NAME, timm/NAME, hf/ORG/NAME, or module:function of your own code."


OLD = {"--samples": ("--n-samples", ""), "--against": ("--removals", "layermask,")}
"""Names that options had before: the names of today, and what goes before the value."""


class Command(TyperCommand):
    """A command that takes its options by their old names as well, which its help does not list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_renamed(args)])


def _renamed(args: list[str]) -> Iterator[str]:
    left = iter(args)
    for arg in left:
        name, sign, value = arg.partition("=")
        if arg == "--":  # only arguments follow
            yield arg
            yield from left
        elif name in OLD:
            new, before = OLD[name]
            yield new + (sign and f"={before}{value}")
            yield from () if sign else (before + value for value in itertools.islice(left, 1))
        else:
            yield arg


def count(help: str, *names: str, least: int = 1, most: int = MOST, **more: Any) -> Any:
    """Return an option that takes whole numbers."""
    return typer.Option(*names, min=least, max=most, help=help, **more)


def size(help: str) -> Any:
    """Return the option for the side of images, None for the model's own."""
    return count(help, most=SIDE, show_default="the model's own")


def model_argument(forms: str = FORMS) -> Any:
    """Return the argument that names a model."""
    return typer.Argument(metavar="MODEL", help=forms, show_default=False)


Images = Annotated[
    list[Path],
    typer.Argument(
        help="Pictures, folders of pictures, or wildcards.",
        metavar="IMAGE",
        show_default=False,
        parser=path,
    ),
]
Segments = Annotated[
    str,
    typer.Option(
        help="grid, slic, quickshift, felzenszwalb, watershed or a preset (`layermask segments` lists them), "
        "with parameters as grid:32, boxes:LEFT,TOP,RIGHT,BOTTOM;..., or a label-map file."
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        help="Masked pictures per forward pass, which limits the memory needed. auto starts with 32 (256 on "
        "a GPU) and halves it when memory runs out."
    ),
]
Model = Annotated[str, typer.Option(help=FORMS)]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weight file to use instead of the hub's: .safetensors or a state dict.", **PATH),
]
Fitted = Annotated[
    Path | None,
    typer.Option(
        help="File of `layermask fit`, for the removals matched and adaptive-matched.",
        show_default="the one that it kept for this model",
        **PATH,
    ),
]
Removals = Annotated[
    str, typer.Option("--removals", help="Removals, separated by commas; see docs/removals.md.")
]
Output = Annotated[
    str,
    typer.Option(
        help="What of the model's scores is read: probability (as the model shows it), softmax "
        "(one class is right), sigmoid (one logit, or labels that do not "
        "exclude each other) or logit (its numbers as they are)."
    ),
]
Nodata = Annotated[
    str | None,
    typer.Option(
        help="What marks pixels without data, which are never shown: a value that all channels have, nan, "
        "alpha (all that is not opaque), a mask file, white = data, polygons (.json) around what is no data, "
        "or a folder with one file per picture.",
        show_default="all pixels hold data",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the picture and the JSON file.", **PATH)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the JSON record instead of text.")]


def output_of(text: str) -> OutputName:
    """Return what of a model's scores is read, after checking it."""
    from layermask.arguments.words import choice
    from layermask.removal.reading import OUTPUTS

    return choice("--output", text, OUTPUTS)


def removals(text: str) -> list[str]:
    """Return the removals asked for, each once; "none" stands for no more."""
    from layermask.removal.registry import check_name

    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    if not names:
        raise InputError(f"--removals {text!r} names nothing: give one, or more separated by commas")
    return list(dict.fromkeys(map(check_name, names)))


def output(folder: Path, names: Iterable[str | Path], option: str) -> Path:
    """Return a folder, made if needed, in which files of these names, paths within it, can be written.

    Raises:
        InputError: the folder or a file cannot be written. `option` names what to change.
    """
    try:
        place = output_folder(folder)
        check_outputs(place, names)
    except InputError as error:
        raise InputError(f"{error}: give another {option}") from error
    return place


def batch_size(text: str, device: torch.device) -> int:
    """Return the number of pictures per forward pass; "auto" is where a run starts."""
    if text == "auto":
        return 32 if device.type == "cpu" else 256
    number = int(text) if text.isdecimal() and len(text) < 12 else 0
    if not 1 <= number <= MOST:
        raise InputError(
            f"batch size {text!r}: give auto, or a whole number above 0, at most {MOST:,} (--batch-size)"
        )
    return number


def less(batch_size: str) -> str:
    """Return the option to change when memory runs out. With auto, a single picture was too large."""
    return "--model, or --device cpu" if batch_size == "auto" else "--batch-size, or auto"


def printer(silent: bool) -> Callable[[str], None]:
    """Return a function that prints a line for the user, or nothing if `silent`."""
    return (lambda text: None) if silent else (lambda text: typer.echo(printable(text)))
