"""Segmenters by name, with settings and presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layermask.arguments import kinds
from layermask.errors import InputError, out_of_memory
from layermask.segment.segmenters import (
    Box,
    Boxes,
    Felzenszwalb,
    Grid,
    Quickshift,
    Segmenter,
    Slic,
    Watershed,
)

if TYPE_CHECKING:
    from jaxtyping import Int64

SEGMENTERS: dict[str, Callable[..., Segmenter]] = {
    "grid": Grid,
    "slic": Slic,
    "quickshift": Quickshift,
    "felzenszwalb": Felzenszwalb,
    "watershed": Watershed,
}

SEGMENTER_PRESETS: dict[str, Segmenter] = {
    "paper-grid": Grid(16),
    "paper-quickshift": Quickshift(kernel_size=4, max_dist=200, ratio=0.2),
    "paper-slic": Slic(n_segments=100),
    "paper-lime-quickshift": Quickshift(kernel_size=2, max_dist=200, ratio=0.2),
    "paper-lime-slic": Slic(n_segments=250),
    "paper-figures-slic": Slic(n_segments=200),
    "jain-slic": Slic(n_segments=150, sigma=1.0),
}
"""The paper's settings: of Table 1, of LIME (Table 2), of its figures; and those of Jain et al. (2022)."""


def segmenter(text: str) -> Segmenter:
    """Return the segmenter or preset of a name, as "slic".

    "slic:50" sets its first parameter, "slic:n_segments=50,sigma=1" any, "boxes:0,0,9,9;5,5,20,30" boxes.
    """
    name, _, values = kinds.text("text", text).partition(":")
    if name == "boxes":
        return Boxes(_boxes(values))
    if name in SEGMENTER_PRESETS and not values:
        return SEGMENTER_PRESETS[name]
    if name not in SEGMENTERS:
        kinds.known(
            "segments", name, [*SEGMENTERS, "boxes", *SEGMENTER_PRESETS], ", or give a label-map file"
        )
    return _with_values(SEGMENTERS[name], text, values)


def segmented(text: str, image: Any, valid: Any = None) -> Int64[Tensor, "H W"]:
    """Return the labels (H, W) that the segmenter of a name gives for a picture; `valid` as of segmenters.

    Raises:
        InputError: there is no such segmenter, or it cannot work with these settings.
    """
    make: Callable[..., Tensor] = segmenter(text)
    try:
        return make(image) if valid is None else make(image, valid)
    except Exception as error:  # scikit-image raises what its loops do
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        raise InputError(f"segments {text!r} cannot be made: {type(error).__name__}: {error}") from error


def _with_values(kind: Callable[..., Any], text: str, values: str) -> Segmenter:
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are dataclasses
    options = {}
    for part in filter(None, values.split(",")):
        name, equals, number = part.rpartition("=")
        name = name if equals else names[0]
        if name not in names:
            raise InputError(f"segments {text!r}: {name!r} is not one of {', '.join(names)}")
        options[name] = _number(number, text)
    try:
        return kind(**options)
    except InputError as error:  # that names the parameter, and not where it was given
        raise InputError(f"segments {text!r}: {error}") from error


def _number(number: str, text: str) -> float:
    try:
        found = int(number) if number.lstrip("-").isdigit() else float(number)
    except ValueError:
        raise InputError(f"segments {text!r}: {number!r} is not a number") from None
    if not abs(found) < 2**31:  # NaN too
        raise InputError(f"segments {text!r}: {number} is not a number below 2**31")
    return found


def _boxes(text: str) -> tuple[Box, ...]:
    try:
        boxes = tuple(tuple(map(int, part.split(","))) for part in filter(None, text.split(";")))
    except ValueError:
        boxes = ()
    if not boxes or any(len(box) != 4 or box[0] >= box[2] or box[1] >= box[3] for box in boxes):
        raise InputError(
            f"boxes {text!r}: expected left,top,right,bottom in pixels, left < right and top < bottom, "
            "with ; between boxes"
        )
    return boxes  # type: ignore[return-value]  # all are of 4
