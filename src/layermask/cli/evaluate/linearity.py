"""`layermask evaluate linearity`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from layermask.cli.evaluate.conduct import REMOVALS, Removals, command_of, names
from layermask.errors import InputError

Patches = Annotated[str, typer.Option(help="Sizes of square patches in pixels, separated by commas.")]
Of = Annotated[
    str, typer.Option(help="What is summed: features, what the head of the model reads, or logits.")
]
Head = Annotated[
    str | None,
    typer.Option(help="Name of the head's module, if features.", show_default="the last linear layer"),
]


@command_of
def command(
    removals: Removals = REMOVALS, patches: Patches = "32", of: Of = "features", head: Head = None
) -> Any:
    from layermask.studies import LinearityStudy

    return LinearityStudy(names(removals, "--removals"), _numbers(patches), of=of, head=head)  # type: ignore[arg-type]


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"patches {text!r}: give whole numbers of pixels, separated by commas, as 16,32")
    return tuple(map(int, parts))
