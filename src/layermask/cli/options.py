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
