"""`layermask check MODEL`: can this model be masked, and is the result right?"""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli import options
from layermask.cli.outcome import FAILED, outcome

Model = Annotated[str, options.model_argument(options.FORMS.replace("hf/ORG", "hf/TYPE, hf/ORG"))]
Size = Annotated[int | None, options.size("Side of the random images, in pixels.")]
Randomise = Annotated[
    bool | None,
    typer.Option(
        "--randomise/--as-is",
        help="Use random weights. Fresh models contain zeros and ones, which can hide errors.",
        show_default="as is for your own, randomised otherwise",
    ),
]


def command(
    model: Model,
    size: Size = None,
    randomise: Randomise = None,
    device: options.Device = "cpu",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """List the operations of a model and those without a mask rule, and test the laws on it.

    Needs no weights and no network. Exit status: 1 if a rule is missing or a law fails, 2 bad input.
    """
    with outcome(memory="--size"):
        from dataclasses import asdict
        from json import dumps

        from layermask.check import check
        from layermask.check.randomise import randomise as redraw
        from layermask.check.samples import sample_images
        from layermask.zoo.architectures import build
        from layermask.zoo.device import torch_device
        from layermask.zoo.loaded import check_size

        network, shape = build(model, size)
        images = sample_images(4, shape)
        own = ":" in model
        if randomise or (randomise is None and not own):
            redraw(network, images)
        where = torch_device(device)
        network, images = network.to(where), images.to(where)
        check_size(network, (images[:1],), model)
        report = check(network, images, say=None if quiet else _say)
        if json:
            record = {"model": model, "input": list(images.shape), "ok": report.ok, **vars(report)}
            record.setdefault("engine_used", getattr(report, "engine_used", None))
            record["laws"] = [asdict(law) for law in report.laws]
            typer.echo(dumps(record))
        elif not (quiet and report.ok):
            typer.echo(f"{model} on {tuple(images.shape)}\n{report}")
        if not report.ok:
            raise typer.Exit(FAILED)


def _say(words: str) -> None:
    typer.echo(f"layermask: judging {words}", err=True)
