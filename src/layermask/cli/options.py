"""The options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layermask.errors import InputError

if TYPE_CHECKING:
    import torch

Image = Annotated[
    Path, typer.Argument(help="The picture: JPEG, PNG, WebP, ...", metavar="IMAGE", show_default=False)
]
Images = Annotated[
    list[Path],
    typer.Argument(
        help="Pictures, folders of pictures, or wildcards.", metavar="IMAGE...", show_default=False
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
        help="Pictures per forward pass, which bounds the memory; auto starts with 32 (256 on a GPU) and "
        "halves that when memory runs out."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="builtin, torchvision/NAME, timm/NAME, hf/ORG/NAME, or module:function of your own code."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Weight file to use instead of the hub's: .safetensors or a state dict.")
]
Against = Annotated[
    str, typer.Option(help="Removals to compare with, separated by commas; none for no other.")
]
Out = Annotated[Path, typer.Option(help="Folder for the picture and the JSON file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the JSON record instead of text.")]


def prepare_output(against: str, out: Path) -> tuple[list[str], Path]:
    """Return the removals, layermask and the others asked for, and the folder, found to be writable."""
    from layermask.files import output_folder
    from layermask.removal.table import check_name

    others = [name.strip() for name in against.split(",") if name.strip() not in ("", "none")]
    return list(dict.fromkeys(["layermask", *map(check_name, others)])), output_folder(out)


def check_files(images: list[Path]) -> None:
    """Find out before a model is loaded that a picture cannot be read."""
    from layermask.images import load_image

    for image in images:
        load_image(image)


def check_report(report: Path | None, count: int) -> None:
    """One page cannot hold many pictures."""
    if report and count > 1 and report.suffix.lower() in (".html", ".htm"):
        raise InputError(f"--report {report} is one page for {count} pictures: give a folder")


def batch_size(text: str, device: torch.device) -> int:
    """Return the number of pictures per forward pass; "auto" is where a run starts."""
    if text == "auto":
        return 32 if device.type == "cpu" else 256
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"batch size {text!r}: give auto, or a whole number above 0")
    return int(text)


def voice(silent: bool) -> Callable[[str], None]:
    """Return what prints a line for the user, or nothing."""
    return (lambda text: None) if silent else typer.echo


def torch_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not there: {str(error).splitlines()[0]}") from error
    return device
