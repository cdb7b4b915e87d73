"""`layermask evaluate lime`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.evaluate.conduct import REMOVALS, Removals, Seed, Segmentations, command_of, names

Samples = Annotated[
    int, typer.Option(min=1, max=options.MANY, help="Random masks per picture, segmentation and removal.")
]
TopK = Annotated[
    int, typer.Option("--k", min=1, max=options.MOST, help="Highest segments to compare and to hide.")
]
Among = Annotated[
    int,
    typer.Option(
        min=1,
        max=options.MOST,
        help="Leave out pictures whose label is not among so many likeliest classes.",
    ),
]
Ablation = Annotated[str, typer.Option(help="The removal that hides the highest segments.")]
Explain = Annotated[str, typer.Option(help="The class explained: label, or the plain model's prediction.")]


@command_of
def command(
    seed: Seed,
    removals: Removals = REMOVALS,
    segmentations: Segmentations = "paper-lime-quickshift,paper-grid,paper-lime-slic",
    n_samples: Samples = 512,
    k: TopK = 20,
    among: Among = 3,
    ablation: Ablation = "greyout",
    explain: Explain = "label",
) -> Any:
    from layermask.studies import LimeStudy

    choice: Any = explain  # LimeStudy refuses what it does not know
    lists = names(removals, "--removals"), names(segmentations, "--segments")
    return LimeStudy(
        *lists, n_samples=n_samples, k=k, among=among, ablation=ablation, explain=choice, seed=seed
    )
