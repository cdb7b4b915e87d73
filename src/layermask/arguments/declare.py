"""Declaring what arguments are: one kind for each name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")
Kind = Callable[[str, Any], Any]


def checked(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that each argument named here is checked, and arrives as its kind returns it.

    Arguments that are not given keep their defaults, which are not checked.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            for name in kinds.keys() & given.arguments.keys():
                given.arguments[name] = kinds[name](name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return call

    return decorate


def check_fields(owner: Any, **kinds: Kind) -> None:
    """Check fields of a dataclass that was just made, frozen or not, and keep what their kinds return."""
    for name, kind in kinds.items():
        object.__setattr__(owner, name, kind(name, getattr(owner, name)))
