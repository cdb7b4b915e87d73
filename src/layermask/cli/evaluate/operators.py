"""`layermask evaluate operators`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from layermask.cli.evaluate.conduct import REMOVALS, Removals, Seed, Segmentations, command_of, names

Methods = Annotated[
    str,
    typer.Option(
        help="Attributions to rank, separated by commas: random, gradient, input-x-gradient, or an explainer "
        "of `layermask explain` @ the removal it asks by; without @, each removal ranks its own.",
        show_default="random,gradient,input-x-gradient, leave-one-out and lime @greyout and @layermask",
    ),
]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Steps in which the segments are hidden.")]
RandomOrders = Annotated[
    int, typer.Option("--n-orders", min=1, max=100_000, help="Random orders per picture.")
]
Samples = Annotated[
    int, typer.Option(min=2, max=100_000, help="Masks per segment of methods that draw them.")
]


@command_of
def command(
    seed: Seed,
    removals: Removals = REMOVALS,
    segmentations: Segmentations = "slic:50",
    methods: Methods = "",
    steps: Steps = 10,
    n_orders: RandomOrders = 5,
    samples: Samples = 4,
) -> Any:
    from layermask.studies import OperatorStudy

    chosen = tuple(filter(None, (part.strip() for part in methods.split(",")))) or OperatorStudy.methods
    lists = names(removals, "--removals"), names(segmentations, "--segments"), chosen
    return OperatorStudy(*lists, steps=steps, n_orders=n_orders, samples=samples, seed=seed)
