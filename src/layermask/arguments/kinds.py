"""All kinds in one place, to be used as `kinds.count`; parameters then keep their own names.

Below are types for the fields of `declare.Checked`.
"""
# ruff: noqa: F401

from functools import partial
from typing import Annotated

from layermask.arguments.numbers import (
    color,
    count,
    flag,
    index,
    number,
    numbers,
    optional,
    pair,
    seed,
    sequence,
    several,
    sizes,
)
from layermask.arguments.objects import (
    binds,
    device,
    function,
    instance,
    instances,
    model,
    picture,
    progress,
    removal,
    rules,
)
from layermask.arguments.tensors import (
    classes,
    image,
    images,
    label_map,
    mask,
    per_image,
    target,
    tensor,
    valid,
    values,
)
from layermask.arguments.words import choice, known, mapping, path, text

Color = Annotated[tuple[float, ...], color]
Count = Annotated[int, count]
MaybeSeed = Annotated[int | None, optional(seed)]
Positive = Annotated[float, partial(number, above=0)]
PositiveColor = Annotated[tuple[float, ...], partial(color, above=0)]
Seed = Annotated[int, seed]
Share = Annotated[float, partial(number, above=0, below=1)]
"""Between 0 and 1, and neither of them."""
Text = Annotated[str, text]
