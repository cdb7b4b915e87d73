"""`layermask predict IMAGE... --mask MASK`: what the model says of the visible part, under each removal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.jobs import Job, done_already, find_jobs, go_through, load_model, mask_of, prepare_folder
from layermask.cli.outcome import outcome
from layermask.cli.output import in_one_line, ranking_lines, write
from layermask.studies.hidden import visible_part
from layermask.studies.prepared import PreparedImage, Ranking, open_image, rank

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from layermask.zoo.loaded import Loaded

Mask = Annotated[
    Path,
    typer.Option(
        help="Picture of two levels, white = visible, black = hidden; or a folder with one for each picture, "
        "of the same name.",
        show_default=False,
        **options.PATH,
    ),
]
Invert = Annotated[bool, typer.Option("--invert", help="White is hidden instead.")]


def command(
    images: options.Images,
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
    """Print a model's top predictions for whole pictures and for their visible part under each removal.

    Writes IMAGE_predict.png and IMAGE_predict.json for each picture. Of many pictures, those that an earlier
    run with the same options has done are left as they are. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet, "--model, or --device cpu"):
        from layermask.io.record import engine_of
        from layermask.removal.registry import from_table

        removals, jobs = options.removals(against), find_jobs(images)
        folder = prepare_folder(out, jobs, ["_predict.png", "_predict.json"])
        options.check_files([job.image for job in jobs[:1]])
        loaded, where = load_model(model, weights, device)
        alone = len(jobs) == 1
        say = options.voice(quiet or json or not alone)
        operators = {name: from_table(name, loaded) for name in removals}

        def request(job: Job) -> dict[str, Any]:
            return _request(loaded, weights, mask_of(mask, job), invert, removals)

        def work(job: Job, advance: Callable[[float], None]) -> str | None:
            own = mask_of(mask, job)
            scene = open_image(job.image, loaded, where, weights)
            answers = _answers(scene, operators, visible_part(scene, own, invert), say)
            record = {"command": "predict", "request": request(job), **_record(scene, own, invert, answers)}
            record["engine_used"] = engine_of(*operators.values())
            files = write(folder, f"{job.name}_predict", _sheet(scene, own, answers), record)
            if json:
                typer.echo(files.text if alone else in_one_line(files.text), nl=not alone)
            say(f"wrote {files.picture} and {files.record}")
            advance(1)
            return files.engine

        go_through(
            jobs, work, lambda job: done_already(folder, job, "predict", request(job)), "predicting", quiet
        )


def _request(
    loaded: Loaded, weights: Path | None, mask: Path, invert: bool, removals: list[str]
) -> dict[str, Any]:
    from layermask.io import record

    return {
        "layermask": record.versions()["layermask"],
        "model": loaded.record(weights),
        "mask": record.sha256(mask),
        "invert": invert,
        "removals": removals,
    }


def _answers(
    scene: PreparedImage, operators: dict[str, nn.Module], visible: Tensor, say: Callable[[str], None]
) -> dict[str, tuple[np.ndarray, Ranking]]:
    say(f"{scene.title}, {float(visible.float().mean()):.1%} visible")
    answers = {"whole image": (scene.picture, scene.predictions)}
    answers |= {name: _answer(scene, operator, visible) for name, operator in operators.items()}
    for name, (_, ranking) in answers.items():
        say(f"{name}\n{ranking_lines(scene.named(ranking))}")
    return answers


def _answer(scene: PreparedImage, operator: nn.Module, visible: Tensor) -> tuple[np.ndarray, Ranking]:
    """Return what remains of the picture under a removal, and what the model makes of it."""
    from layermask.render.overlay import hidden_picture

    fill: Any = getattr(operator, "fill", None)  # operators that paint can show what they paint
    remains = (
        scene.loaded.preprocessing.picture(fill(scene.x, visible))
        if fill
        else hidden_picture(scene.picture, visible)
    )
    return remains, rank(operator, scene.x, visible)


def _sheet(scene: PreparedImage, mask: Path, answers: dict[str, tuple[np.ndarray, Ranking]]) -> bytes:
    from layermask.errors import printable
    from layermask.render.figure import png
    from layermask.render.sheets import prediction_sheet

    columns = [(name, picture, scene.named(ranking)) for name, (picture, ranking) in answers.items()]
    return png(prediction_sheet(f"{scene.title}, {printable(mask.name)}", columns))


def _record(
    scene: PreparedImage, mask: Path, invert: bool, answers: dict[str, tuple[Any, Ranking]]
) -> dict[str, Any]:
    from layermask.io.record import sha256

    return {
        **scene.record(),
        "mask": {"file": mask.name, "sha256": sha256(mask), "invert": invert},
        "answers": {name: scene.entries(ranking) for name, (_, ranking) in answers.items()},
    }
