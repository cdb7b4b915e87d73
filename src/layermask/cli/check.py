"""`layermask check MODEL`: can this model be masked, and is the result right?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layermask.cli import options
from layermask.cli.outcome import FAILED, outcome

if TYPE_CHECKING:
    from torch import Tensor, nn

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="builtin, torchvision/NAME, timm/NAME, hf/TYPE, hf/ORG/NAME, or module:function of your own.",
        show_default=False,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, max=options.SIDE, help="Side of the random images, in pixels.", show_default="the model's own"
    ),
]
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
    """List the operations a model uses and every one without a mask rule, and judge it by the laws.

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

        network, shape = build(model, size)
        images = sample_images(4, shape)
        own = ":" in model
        if randomise or (randomise is None and not own):
            redraw(network, images)
        where = torch_device(device)
        network, images = network.to(where), images.to(where)
        _try(network, images[:1], model)
        report = check(network, images)
        if json:
            record = {"model": model, "input": list(images.shape), "ok": report.ok, **vars(report)}
            record.setdefault("engine_used", getattr(report, "engine_used", None))
            record["laws"] = [asdict(law) for law in report.laws]
            typer.echo(dumps(record))
        elif not (quiet and report.ok):
            typer.echo(f"{model} on {tuple(images.shape)}\n{report}")
        if not report.ok:
            raise typer.Exit(FAILED)


def _try(network: nn.Module, images: Tensor, model: str) -> None:
    """Ask the model itself once: what it says of a size that it does not take is clearer than a law."""
    import torch

    from layermask.check.laws import leaves
    from layermask.errors import ModelError
    from layermask.zoo.loaded import blamed

    with torch.no_grad(), blamed(f"model {model!r} does not take images {tuple(images.shape)}, see --size:"):
        output = network(images)
    if not any(True for _ in leaves(output)):
        raise ModelError(f"model {model!r} answers with a {type(output).__name__}, which holds no tensor")
