"""Numbers, counts, seeds and flags, from Python, numpy or tensors without dims. True is not a number."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from layermask.arguments.refusal import refused, wrong_type

MOST = 10**7
"""The largest count: more samples, steps or cells take too long on any machine."""
LARGEST, SMALLEST = 1e9, 1e-12
"""The largest number and the smallest one above 0. Squares and quotients then stay finite in float32."""
LARGEST_SEED = 2**32 - 1
"""Generators of torch on the CPU read 32 bits: seed 2^32 would draw what seed 0 draws."""
LARGEST_INDEX = 2**63 - 1


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a number with low <= number <= high and above < number < below; an int stays one.

    Its size is at most `LARGEST`. Where only numbers above 0 are allowed, it is at least `SMALLEST`.
    """
    found, wanted = _real(value), f"give {_range(low, high, above, below)}"
    if found is None:
        raise wrong_type(name, value, wanted)
    if not (_finite(found) and low <= found <= high and above < found < below):
        raise refused(name, value, wanted)
    if abs(found) > LARGEST:
        raise refused(name, value, f"{wanted}, between -{LARGEST:g} and {LARGEST:g}")
    if above >= 0 and found < SMALLEST:
        raise refused(name, value, f"{wanted}, at least {SMALLEST:g}")
    return found


def count(name: str, value: Any, *, low: int = 1, high: int = MOST) -> int:
    """Return a whole number from `low` to `high`."""
    found = _real(value)
    if not isinstance(found, int):
        raise wrong_type(name, value, f"give a whole number, {low} or more")
    if not low <= found <= high:
        raise refused(name, value, f"give {low} or more" if found < low else f"give {high} at most")
    return found


def index(name: str, value: Any) -> int:
    """Return a whole number, 0 or more."""
    return count(name, value, low=0, high=LARGEST_INDEX)


def seed(name: str, value: Any, *, high: int = LARGEST_SEED) -> int:
    """Return the seed of a random generator, from 0 to `high`, a power of 2 minus 1."""
    found = _real(value)
    if not isinstance(found, int):
        raise wrong_type(name, value, "give a whole number, 0 or more")
    if not 0 <= found <= high:
        raise refused(name, value, f"give a whole number from 0 to 2**{high.bit_length()} - 1")
    return found


def flag(name: str, value: Any) -> bool:
    """Return True or False. Nothing else is accepted, neither 0 nor 1."""
    found = _plain(value)
    if not isinstance(found, bool):
        raise wrong_type(name, value, "give True or False")
    return found


def several(name: str, value: Any, kind: Callable[[str, Any], Any], least: int = 1) -> tuple:
    """Return the tuple of a list, tuple or array (n,), each item checked by `kind`."""
    items = sequence(name, value)
    if len(items) < least:
        raise refused(name, value, f"give {least} or more")
    return tuple(kind(f"{name}[{place}]", item) for place, item in enumerate(items))


def numbers(name: str, value: Any, **limits: float) -> tuple[float, ...]:
    """Return several numbers, each within the limits of `number`."""
    return several(name, value, lambda name, item: number(name, item, **limits))


def color(name: str, value: Any, **limits: float) -> tuple[float, ...]:
    """Return a number for each channel, or one for all, as a tuple."""
    if _real(value) is not None:
        return (number(name, value, **limits),)
    return numbers(name, value, **limits)


def sizes(name: str, value: Any, **limits: int) -> int | tuple[int, ...]:
    """Return one count, or several, one for each axis."""
    if _real(value) is not None:
        return count(name, value, **limits)
    return several(name, value, lambda name, item: count(name, item, **limits))


def pair(name: str, value: Any, *, of: str, **limits: int) -> tuple[int, int]:
    """Return two counts; `of` says what they are, as "(width, height)"."""
    found = several(name, value, lambda name, item: count(name, item, **limits))
    if len(found) != 2:
        raise refused(name, value, f"give {of}")
    return found


def same_length(**named: Sequence[Any]) -> None:
    """Refuse sequences of different lengths. Errors name them by their keywords."""
    if len({len(value) for value in named.values()}) > 1:
        name, value = next(reversed(named.items()))
        lengths = ", ".join(f"{name} has {len(value)}" for name, value in named.items())
        raise refused(name, value, f"{lengths} values, give equally many")


def sequence(name: str, value: Any) -> list[Any]:
    """Return the items of a list, tuple, or array or tensor with dims. Refuse text, sets and mappings."""
    with contextlib.suppress(Exception):
        if getattr(value, "ndim", None):
            return list(value) if value.ndim > 1 else value.tolist()
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
            return list(value)
    raise wrong_type(name, value, "give a list or tuple")


def optional(kind: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return the kind that also accepts None."""
    return lambda name, value: None if value is None else kind(name, value)


def _plain(value: Any) -> Any:
    """Return what a numpy scalar, or an array or tensor without dims, holds; other values as they are."""
    with contextlib.suppress(Exception):
        return value.item() if getattr(value, "ndim", None) == 0 else value
    return None


def _real(value: Any) -> int | float | None:
    """Return a real number as Python's own int or float, and None for anything else."""
    value = _plain(value)
    with contextlib.suppress(Exception):
        if isinstance(value, Integral) and not isinstance(value, bool):
            return operator.index(value)
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
    return None


def _finite(found: float) -> bool:
    with contextlib.suppress(OverflowError):
        return math.isfinite(found)
    return False


def _range(low: float, high: float, above: float, below: float) -> str:
    """Return the words for a range: "a number above 0", "a number from 0 to 1"."""
    if low > -math.inf and high < math.inf:
        return f"a number from {low:g} to {high:g}"
    if above > -math.inf and below < math.inf:
        return f"a number between {above:g} and {below:g}"
    starts = [f"of {low:g} or more"] if low > -math.inf else [f"above {above:g}"] if above > -math.inf else []
    ends = [f"of {high:g} at most"] if high < math.inf else [f"below {below:g}"] if below < math.inf else []
    return f"a number {' and '.join(starts + ends)}" if starts + ends else "a finite number"
