"""Declaring what arguments are: one kind for each name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from layermask.arguments.words import choice

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


class Checked:
    """Base of dataclasses whose annotations say what each field may be.

    `Annotated[type, kind]`: the field is checked by `kind` and holds what that returns. A `Literal` is one of
    its choices. Fields of other annotations are not checked.
    """

    def __post_init__(self) -> None:
        check_fields(self, **_kinds_of(type(self)))


@functools.cache
def _kinds_of(owner: type) -> dict[str, Kind]:
    hints = get_type_hints(owner, include_extras=True)
    fields = [field.name for field in dataclasses.fields(owner) if field.init]  # type: ignore[arg-type]
    found = {name: _kind_of(hints[name]) for name in fields}
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind_of(hint: Any) -> Kind | None:
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    if get_origin(hint) is Literal:
        return functools.partial(choice, known=get_args(hint))
    return None
