"""`layermask evaluate shape`."""

from __future__ import annotations

from typing import Any

from layermask.cli.evaluate.conduct import REMOVALS, Removals, command_of, names


@command_of
def command(removals: Removals = REMOVALS) -> Any:
    from layermask.studies import ShapeBiasStudy

    return ShapeBiasStudy(names(removals, "--removals"))
