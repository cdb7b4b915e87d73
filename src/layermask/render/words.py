"""How numbers and lists are written in the sentences and tables of reports."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from layermask.metrics.bootstrap import Estimate


class Share(Estimate):
    """A share of 1 with its bounds: pages write it in percent."""


class Points(Estimate):
    """A difference of two shares with its bounds: pages write it in points of a hundred, with its sign."""


def with_bounds(number: Estimate) -> tuple[str, str]:
    """Return a number and its interval, as "0.924" and "0.913 to 0.939"; "" for an unknown interval."""
    bounds = number.low, number.high
    if isinstance(number, Share):
        text, low, high = percent(number.value), *(f"{100 * bound:.1f}" for bound in bounds)
    elif isinstance(number, Points):
        text, low, high = map(points, number)
    else:
        text, low, high = (f"{value:.3f}" for value in number)
    return text, "" if isnan(number.low) else f"{low} to {high}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in percent: "92.4 %"; without zeros at the end for more than one digit."""
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits > 1 else text} %"


def points(difference: float) -> str:
    """Return a difference of shares in points of a hundred, with its sign: "+12.3"."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def rounded(count: int) -> str:
    """Return a number to two digits: an estimate has no more."""
    return f"{round(count, 2 - len(str(count))):,}" if count >= 100 else str(count)


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
