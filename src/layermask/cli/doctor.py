"""`layermask doctor`: what this machine has, which engine and kernels will be used, and how fast that is."""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome

Seconds = Annotated[
    float,
    typer.Option(min=0, max=3600, help="How long the speed check may take; 0 skips it.", **options.FINITE),
]


def command(
    model: options.Model = "builtin",
    seconds: Seconds = 10.0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Say what is installed, which engine and kernels will be used and why, and what is missing.

    Compiles the kernels if they are not there yet. The speed check takes a plain forward pass and those of
    both engines, with random weights. Needs no network. Exit status: 1 failed, 2 bad input.
    """
    with outcome(memory="--model, or --device cpu"):
        from layermask.check.doctor import doctor
        from layermask.check.samples import sample_images
        from layermask.io.record import to_json
        from layermask.zoo.architectures import build
        from layermask.zoo.device import torch_device
        from layermask.zoo.loaded import check_size

        where = torch_device(device)
        network, shape = build(model)
        network = network.to(where)
        check_size(network, (sample_images(1, shape).to(where),), model)
        found = doctor(network, shape, model, where, seconds)
        typer.echo(to_json(found.record()) if json else found, nl=not json)
