"""The removal operators by name: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from layermask.errors import InputError, nearest
from layermask.removal.constant import Blackout, Greyout
from layermask.removal.layers import LayerMasking
from layermask.zoo.preprocessing import Preprocessing

Factory = Callable[[nn.Module, Preprocessing], Callable[..., Any]]


REMOVALS: dict[str, Factory] = {
    "layermask": lambda model, p: LayerMasking(model),
    "greyout": lambda model, p: Greyout(model, p.mean, p.std),
    "blackout": lambda model, p: Blackout(model, p.mean, p.std),
}


def removal(name: str, model: nn.Module, preprocessing: Preprocessing) -> Callable[..., Any]:
    """Build the removal operator `name`: `operator(images, visible) -> model output`."""
    return REMOVALS[check_name(name)](model, preprocessing)


def check_name(name: str) -> str:
    """Return `name`, if there is a removal operator of that name."""
    if name not in REMOVALS:
        raise InputError(
            f"unknown removal {name!r}: choose from {', '.join(REMOVALS)}{nearest(name, REMOVALS)}"
        )
    return name
