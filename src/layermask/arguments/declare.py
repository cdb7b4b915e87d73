"""Declaring what arguments are: one kind for each name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = Callable[[str, Any], Any]


def checked(**kinds: Kind) -> Callable[[Function], Function]:
    """Decorate a function so that each argument named here is checked, and arrives as its kind returns it.

    Arguments that are not given keep their defaults, which are not checked.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        if unknown := kinds.keys() - signature.parameters.keys():
            raise TypeError(f"{function.__name__} has no parameters {', '.join(sorted(unknown))} to check")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            for name in kinds.keys() & given.arguments.keys():
                given.arguments[name] = kinds[name](name, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return call  # type: ignore[return-value]  # which has its signature

    return decorate


def check_fields(owner: Any, **kinds: Kind) -> None:
    """Check fields of a dataclass that was just made, frozen or not, and keep what their kinds return."""
    for name, kind in kinds.items():
        object.__setattr__(owner, name, kind(name, getattr(owner, name)))
