"""The table of rules: what each torch function does to `Masked` arguments, and how it is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, get_type_hints

from torch.overrides import resolve_name

from layermask.arguments import kinds
from layermask.core.masked import Masked

RULES: dict[Callable, Callable] = {}
"""What each torch function does to `Masked` arguments: torch function -> rule. It only grows."""

BUILT_IN: dict[Callable, tuple[Callable, bool]] = {}
"""This package's own: torch function -> its rule, and whether that takes a Masked first and nothing else."""

OPERATORS: dict[str, Callable] = {}
"""Rules for operators of libraries that need not be installed: "torchvision.nms" -> rule."""


def operator(name: str) -> Callable[[Callable], Callable]:
    """Register the decorated function as the rule of `torch.ops.<name>`, whether or not that is there yet."""

    def register(body: Callable) -> Callable:
        return OPERATORS.setdefault(name, body)

    return register


def rule(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as the rule of `functions`, whose parameters it takes.

    It is called with the arguments that the model wrote.

    Raises:
        ValueError: one of them has a rule already (use `overriding` to replace it for a while).
    """

    def register(body: Callable) -> Callable:
        for function in functions:
            _add(function, body)
        return body

    return register


def built_in(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register a rule of this package. It is called with torch's own parameter names, also for numpy's.

    If its first parameter is a `Masked`, it is not called with a plain tensor there.
    """

    def register(body: Callable) -> Callable:
        first = _takes_masked_first(body)
        for function in functions:
            _add(function, body)
            BUILT_IN[function] = body, first
        return body

    return register


def _add(function: Callable, body: Callable) -> None:
    if function in RULES:
        raise ValueError(f"{name_of(function)} has a rule already; replace it within `overriding`.")
    RULES[function] = body


def _takes_masked_first(body: Callable) -> bool:
    """Whether the type of the first parameter is Masked and nothing else, with a shape or without."""
    hints = get_type_hints(getattr(body, "func", body), localns=_SHAPES)  # of a functools.partial
    return next(iter(hints.values()), None) is Masked


class _Unshaped:
    """Stands for names of jaxtyping, which only type checkers import: `Shaped[Masked, "N C"]` is Masked."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


_SHAPES: dict[str, Any] = dict.fromkeys(
    ("Bool", "Complex", "Float", "Float64", "Int", "Int32", "Shaped", "UInt8"), _Unshaped
)


_OVERRIDES: ContextVar[tuple[Mapping, ...]] = ContextVar("layermask overrides", default=())
_OPEN_BLOCKS: list[None] = []  # as long as blocks are open, in whatever context


@contextlib.contextmanager
def overriding(rules: Mapping[Callable, Callable]) -> Iterator[None]:
    """Replace or add rules within a `with` block. Per model: `LayerMasking(rules=...)`.

    Other threads and asyncio tasks do not see it, but for what they do within a pass that began in the block.
    Blocks may be nested and interleaved: of two that replace the same rule, the one opened last holds.
    A compiled model follows: it is compiled anew.
    """
    mine = dict(kinds.rules("rules", rules))
    _OVERRIDES.set((mine, *_OVERRIDES.get()))
    _OPEN_BLOCKS.append(None)
    try:
        yield
    finally:
        _OPEN_BLOCKS.pop()
        mine.clear()  # for contexts that were copied from this one meanwhile
        _OVERRIDES.set(tuple(each for each in _OVERRIDES.get() if each is not mine))


def overrides() -> tuple[Mapping, ...]:
    """What the open blocks of `overriding` replace in this context, the innermost first."""
    # compilers before torch 2.14 cannot read a context variable: they need not where no block is open
    return _OVERRIDES.get() if _OPEN_BLOCKS else ()


def name_of(function: Callable) -> str:
    """The name of a torch function as users write it."""
    return resolve_name(function) or getattr(function, "__name__", repr(function))
