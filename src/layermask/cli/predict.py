"""`layermask predict IMAGE --mask MASK`: what the model says of the visible part, under each removal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome
from layermask.cli.scene import Ranking, Scene, prepare, rank, ranking_lines, write

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Mask = Annotated[
    Path, typer.Option(help="Picture of two levels: white = visible, black = hidden.", show_default=False)
]
Invert = Annotated[bool, typer.Option("--invert", help="White is hidden instead.")]


def command(
    image: options.Image,
    mask: Mask,
    invert: Invert = False,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    against: options.Against = "greyout,blackout",
    out: options.Out = Path(),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Print a model's top predictions for the whole picture and for its visible part under each removal.

    Writes IMAGE_predict.png and IMAGE_predict.json. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome():
        removals, folder = options.prepare_output(against, out)
        scene = prepare(image, model, weights, device)
        visible = _visible(scene, mask, invert)
        say = options.voice(quiet or json)
        say(f"{scene.title}, {float(visible.float().mean()):.1%} visible")
        answers = {"whole image": (scene.picture, scene.predictions)}
        answers |= {name: _answer(scene, name, visible) for name in removals}
        for name, (_, ranking) in answers.items():
            say(f"{name}\n{ranking_lines(scene.named(ranking))}")
        files = write(
            folder,
            f"{image.stem}_predict",
            _sheet(scene, mask, answers),
            _record(scene, mask, invert, answers),
        )
        typer.echo(files.text, nl=False) if json else say(f"wrote {files.picture} and {files.record}")


def _visible(scene: Scene, path: Path, invert: bool) -> Tensor:
    """Return the (1, 1, H, W) mask of what the model sees."""
    from layermask.errors import ImageError
    from layermask.images import load_mask

    mask = load_mask(path, scene.size)
    visible = scene.loaded.preprocessing.mask(mask.point(lambda level: 255 - level) if invert else mask)
    if not visible.any():
        raise ImageError(
            f"mask {path} hides all that the model sees of the picture: white is visible"
            + (", and --invert turns that round" if invert else "; --invert turns that round")
        )
    return visible.to(scene.x.device)


def _answer(scene: Scene, name: str, visible: Tensor) -> tuple[np.ndarray, Ranking]:
    """Return what remains of the picture under a removal, and what the model makes of it."""
    from layermask.draw.overlay import hidden_picture
    from layermask.removal.table import removal

    operator = removal(name, scene.loaded.model, scene.loaded.preprocessing)
    fill = getattr(operator, "fill", None)  # operators that paint can show what they paint
    remains = (
        scene.loaded.preprocessing.picture(fill(scene.x, visible))
        if fill
        else hidden_picture(scene.picture, visible)
    )
    return remains, rank(lambda: operator(scene.x, visible))


def _sheet(scene: Scene, mask: Path, answers: dict[str, tuple[np.ndarray, Ranking]]) -> bytes:
    from layermask.draw.figure import png
    from layermask.draw.sheets import prediction_sheet

    columns = [(name, picture, scene.named(ranking)) for name, (picture, ranking) in answers.items()]
    return png(prediction_sheet(f"{scene.title}, {mask.name}", columns))


def _record(
    scene: Scene, mask: Path, invert: bool, answers: dict[str, tuple[Any, Ranking]]
) -> dict[str, Any]:
    from layermask.record import sha256

    return {
        "command": "predict",
        **scene.record(),
        "mask": {"file": mask.name, "sha256": sha256(mask), "invert": invert},
        "answers": {name: scene.entries(ranking) for name, (_, ranking) in answers.items()},
    }
