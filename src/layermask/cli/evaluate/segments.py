"""`layermask evaluate segments`."""

from __future__ import annotations

from typing import Annotated

import typer

from layermask.cli import options
from layermask.cli.evaluate import conduct as shared
from layermask.cli.outcome import outcome

Orders = Annotated[str, typer.Option(help="random, salient-first, salient-last, separated by commas.")]


def command(
    data: shared.Data,
    kind: shared.Kind = "auto",
    images: shared.Images = None,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    removals: shared.Removals = shared.REMOVALS,
    segmentations: shared.Segmentations = "grid",
    orders: Orders = "random",
    limit: shared.Limit = None,
    seed: shared.Seed = 0,
    out: shared.Out = shared.OUT,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    skip_unreadable: shared.Skip = False,
    force: shared.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Hide 0, 10, ... 100 % of the segments and write what the model says: results.parquet, settings.json.

    Interrupted or killed, the same command goes on where it was. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet):
        from layermask.evaluate import SegmentRemoval

        shared.conduct(
            SegmentRemoval(
                shared.names(removals), shared.names(segmentations), shared.names(orders), seed=seed
            ),
            data=data,
            kind=kind,
            images=images,
            model=model,
            weights=weights,
            limit=limit,
            seed=seed,
            out=out,
            batch_size=batch_size,
            device=device,
            skip_unreadable=skip_unreadable,
            force=force,
            quiet=quiet,
        )
