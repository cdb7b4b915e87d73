"""How the axes of a value stand for the images, cells and channels of its rows.

Models of tokens cut, join and turn the axes of their values: (N, C, H, W) becomes (N, L, C), and that
(3, N, heads, L, C / heads). The rows stay what they are. An axis is written as digits, as a number is: each
counts in steps along images, rows or columns of the map, or channels, the first one in the largest steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from layermask.errors import NoRows

KINDS = "nhwc"
"""Images, rows and columns of the map, channels: the axes of a map of rows (N, H, W, C)."""
POSITIONS = "hw"


class Digit(NamedTuple):
    """What a part of an axis counts: `size` steps of `step` along one of `KINDS`."""

    kind: str
    size: int
    step: int


Axis = tuple[Digit, ...]  # none: an axis of size 1
Axes = tuple[Axis, ...]


def axis(*digits: tuple[str, int]) -> Axis:
    """An axis that runs along all of these kinds, of these sizes."""
    return tuple(Digit(kind, size, 1) for kind, size in digits if size != 1)


def of_map(batch: int, height: int, width: int, channels: int, order: Sequence[int]) -> Axes:
    """The axes of a map (N, C, H, W) that are in this order."""
    whole = [axis(("n", batch)), axis(("c", channels)), axis(("h", height)), axis(("w", width))]
    return tuple(whole[i] for i in order)


def size_of(one: Axis) -> int:
    return math.prod(digit.size for digit in one)


def shape_of(axes: Axes) -> tuple[int, ...]:
    return tuple(map(size_of, axes))


def count_of(axes: Axes, kind: str) -> int:
    """How many there are of a kind."""
    return math.prod(digit.size for each in axes for digit in each if digit.kind == kind)


@functools.lru_cache(4096)
def reshaped(axes: Axes, shape: tuple[int, ...]) -> Axes:
    """The axes after a reshape.

    Raises:
        NoRows: a digit would have to be cut where it cannot.
    """
    left = [digit for each in axes for digit in each]
    out = []
    for size in shape:
        taken: list[Digit] = []
        while size > 1:
            if not left:
                raise NoRows
            head, *left = left
            if size % head.size:
                head, rest = _cut(head, size)
                left.insert(0, rest)
            taken.append(head)
            size //= head.size
        out.append(_merged(taken))
    if left:
        raise NoRows
    return tuple(out)


def _cut(digit: Digit, size: int) -> tuple[Digit, Digit]:
    """A digit as one of `size` and one of what is left."""
    if digit.size % size:
        raise NoRows
    rest = digit.size // size
    return digit._replace(size=size, step=digit.step * rest), digit._replace(size=rest)


def _merged(digits: Sequence[Digit]) -> Axis:
    """Digits that count on from each other as one."""
    out: list[Digit] = []
    for digit in digits:
        if out and out[-1].kind == digit.kind and out[-1].step == digit.step * digit.size:
            digit = digit._replace(size=out.pop().size * digit.size)
        out.append(digit)
    return tuple(out)


@functools.lru_cache(4096)
def channels_last(axes: Axes, channels: int) -> bool:
    """Whether the last axis is that of all channels, in order, and no other one counts any."""
    return bool(axes) and axes[-1] == axis(("c", channels))


def with_channels(axes: Axes, channels: int) -> Axes:
    """The same with so many channels along the last axis."""
    return (*axes[:-1], axis(("c", channels)))


class Arrangement(NamedTuple):
    """How a map of rows (N, H, W, C) becomes a value: its axes cut into digits, moved, and joined."""

    cut: tuple[tuple[int, ...], ...]  # by kind: the sizes of its digits, in order
    moved: tuple[int, ...]  # where each digit of the value is found there
    joined: tuple[int, ...]  # how many digits each axis of the value has


@functools.lru_cache(4096)
def arrangement(axes: Axes) -> Arrangement:
    digits = [digit for each in axes for digit in each]
    ordered = sorted(digits, key=lambda digit: (KINDS.index(digit.kind), -digit.step))
    cut = tuple(tuple(digit.size for digit in ordered if digit.kind == kind) for kind in KINDS)
    return Arrangement(cut, tuple(map(ordered.index, digits)), tuple(map(len, axes)))


def arranged(rows: Tensor, axes: Axes) -> Tensor:
    """The value of a map of rows (N, H, W, C).

    Of a mask, (N or 1, H or 1, W or 1, C or 1), what does not vary along a value's axis has size 1 there.
    """
    how = arrangement(axes)
    sizes: list[int] = []
    for length, digits in zip(rows.shape, how.cut, strict=True):
        sizes += digits if length == math.prod(digits) else [1] * len(digits)
    moved = rows.reshape(sizes).permute(how.moved)
    full, shape, at = list(moved.shape), [], 0
    for each, count in zip(axes, how.joined, strict=True):
        if any(n != 1 for n in full[at : at + count]):
            full[at : at + count] = [digit.size for digit in each]
        shape.append(math.prod(full[at : at + count]))
        at += count
    return moved.expand(full).reshape(shape)


def as_rows(value: Tensor, axes: Axes) -> Tensor:
    """The reverse for what broadcasts over a value: (N or 1, H or 1, W or 1, C or 1)."""
    how = arrangement(axes)
    full: list[int] = []
    for length, each in zip(value.shape, axes, strict=True):
        full += [digit.size if length != 1 else 1 for digit in each]
    back = [how.moved.index(place) for place in range(len(how.moved))]
    moved = value.reshape(full).permute(back)
    sizes, shape, at = list(moved.shape), [], 0
    for digits in how.cut:
        if any(n != 1 for n in sizes[at : at + len(digits)]):
            sizes[at : at + len(digits)] = digits
        shape.append(math.prod(sizes[at : at + len(digits)]))
        at += len(digits)
    return moved.expand(sizes).reshape(shape)
