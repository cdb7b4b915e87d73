"""`layermask predict IMAGE... --mask MASK`: what the model says of the visible part, under each removal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.jobs import Advance, Found, Job, Session, find_jobs, mask_of
from layermask.cli.outcome import outcome
from layermask.io.record import engine_of, sha256
from layermask.studies.hidden import Hidden, outline_hint, visible_part
from layermask.studies.prepared import PreparedImage, TopClasses, rank

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Mask = Annotated[Path, options.MASK]
Invert = Annotated[bool, typer.Option("--invert", help="White pixels are hidden and black ones visible.")]


def command(
    images: options.Images,
    mask: Mask,
    invert: Invert = False,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    fitted: options.Fitted = None,
    output: options.Output = "probability",
    removals: options.Removals = "layermask,greyout,blackout",
    nodata: options.Nodata = None,
    out: options.Out = Path(),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Print a model's top predictions for whole pictures and for their visible part under each removal.

    Writes IMAGE_predict.png and IMAGE_predict.json for each picture. Pictures that an earlier run with the
    same options has finished are skipped. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome(quiet, "--model, or --device cpu"):
        from layermask.removal.registry import from_table

        names, jobs = options.removals(removals), find_jobs(images)
        place = (out, model, weights, device, quiet, json)
        read = options.output_of(output)
        session = Session.open("predict", jobs, *place, output=read, nodata=nodata, fitted=fitted)
        operators = {name: from_table(name, session.loaded) for name in names}

        def request(job: Job) -> dict[str, Any]:
            own = sha256(mask_of(mask, job))
            return {"mask": own, "invert": invert, "removals": names, "output": output}

        def work(image: PreparedImage, job: Job, advance: Advance) -> Found:
            own = mask_of(mask, job)
            shown = visible_part(image, own, invert)
            shown = shown if image.valid is None else shown & image.valid
            answers = _answers(image, operators, shown, session.print_line)
            hidden = Hidden(shown, own, 0.0, 0)
            record = _record(image, hidden, invert, answers) | {"engine_used": engine_of(*operators.values())}
            advance(1)
            return Found(_sheet(image, hidden, answers), record)

        session.run(work, request, "predicting")


def _answers(
    image: PreparedImage, operators: dict[str, nn.Module], visible: Tensor, print_line: Callable[[str], None]
) -> dict[str, tuple[np.ndarray, TopClasses]]:
    print_line(f"{image.title}, {float(visible.float().mean()):.1%} visible")
    answers = {"whole image": (image.picture, image.predictions)}
    answers |= {name: _answer(image, operator, visible) for name, operator in operators.items()}
    for name, (_, ranking) in answers.items():
        print_line(f"{name}\n{image.listed(ranking)}")
    if hint := outline_hint(visible):
        print_line(hint)
    return answers


def _answer(image: PreparedImage, operator: nn.Module, visible: Tensor) -> tuple[np.ndarray, TopClasses]:
    """Return what remains of the picture under a removal, and what the model makes of it."""
    from layermask.io.overlay import hidden_picture

    fill: Any = getattr(operator, "fill", None)  # operators that paint can show what they paint
    remains = (
        image.loaded.preprocessing.picture(fill(image.x, visible))
        if fill
        else hidden_picture(image.picture, visible)
    )
    return remains, rank(operator, image.x, visible, output=image.output, valid=image.valid)


def _sheet(image: PreparedImage, hidden: Hidden, answers: dict[str, tuple[np.ndarray, TopClasses]]) -> bytes:
    from layermask.io.figure import png
    from layermask.render.sheets import prediction_sheet

    columns = [(name, picture, image.named(ranking)) for name, (picture, ranking) in answers.items()]
    return png(prediction_sheet(f"{image.title}, {hidden.title()}", columns, image.output))


def _record(
    image: PreparedImage, hidden: Hidden, invert: bool, answers: dict[str, tuple[Any, TopClasses]]
) -> dict[str, Any]:
    return {
        **image.record(),
        "mask": {**hidden.record(), "invert": invert},
        "answers": {name: image.entries(ranking) for name, (_, ranking) in answers.items()},
    }
