"""`layermask evaluate segments`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from layermask.cli.evaluate.conduct import REMOVALS, Removals, Seed, Segmentations, command_of, names

Orders = Annotated[str, typer.Option(help="random, salient-first, salient-last, separated by commas.")]


@command_of
def command(
    seed: Seed,
    removals: Removals = REMOVALS,
    segmentations: Segmentations = "grid",
    orders: Orders = "random",
) -> Any:
    from layermask.studies import SegmentStudy

    lists = names(removals, "--removals"), names(segmentations, "--segments"), names(orders, "--orders")
    return SegmentStudy(*lists, seed=seed)
