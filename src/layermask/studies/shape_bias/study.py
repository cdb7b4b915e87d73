"""Mask-shape bias: does the shape of a hole tell the model what was in it?

Balasubramanian and Feizi 2023, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments.declare import Kind
from layermask.errors import InputError
from layermask.metrics.shape_bias import ShapeBias, broken_mask, of_right
from layermask.removal.reading import OutputName
from layermask.removal.registry import REMOVALS
from layermask.studies.prepared import PreparedSample
from layermask.studies.protocol import OverRemovals, chances, label_of, output_name
from layermask.studies.registry import Columns, Content
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded


@dataclass(frozen=True)
class ShapeBiasStudy(OverRemovals):
    """Rows for each picture × removal, of pictures with object masks.

    The model is asked about the whole picture, without the object, and without the quadrants of the object's
    mask swapped (`metrics.broken_mask`). Where the data has no labels, the plain model's prediction is the
    label. Pictures with no object, or nothing else, have rows, and no part in the summary.
    """

    output: OutputName = "probability"

    name: ClassVar[str] = "shape"
    columns: ClassVar[dict[str, str]] = {
        "image": "string",
        "removal": "string",
        "object": "double",
        "label": "int32",
        "whole": "int32",
        "hidden": "int32",
        "broken": "int32",
        "whole_confidence": "double",
        "hidden_confidence": "double",
        "broken_confidence": "double",
    }

    checks: ClassVar[dict[str, Kind]] = {"output": output_name}
    objects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.removals:
            if name in REMOVALS and REMOVALS[name].needs_segments:
                raise InputError(
                    f"removal {name!r} paints segments, and here objects are hidden: choose another removal"
                )

    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterator[Row]:
        """Return a row for each removal."""
        assert scene.object is not None
        label, objects = label_of(scene.sample, scene.x, loaded), scene.object[None, None]
        masks = torch.cat([torch.ones_like(objects), ~objects, ~broken_mask(objects)])
        common = {"object": float(objects.double().mean()), "label": label}
        for name in self.removals:
            found = chances(self.made(name, loaded), scene.x, masks, batch_size, self.output)
            yield {**common, "removal": name, **_row(found, label)}


def _row(found: Tensor, label: int) -> Row:
    parts = dict(zip(("whole", "hidden", "broken"), found, strict=True))
    return {
        **{name: int(each.argmax()) for name, each in parts.items()},
        **{f"{name}_confidence": float(each[label]) for name, each in parts.items()},
    }


def biases(columns: Columns, content: Content) -> dict[str, ShapeBias]:
    """Return what was found under each removal, of pictures with an object and something beside it.

    None may be right when whole.
    """
    return {name: _bias(columns, name) for name in content["settings"]["removals"]}


def _bias(columns: Columns, removal: str) -> ShapeBias:
    chosen = (columns["removal"] == removal) & (columns["object"] > 0) & (columns["object"] < 1)
    parts = (columns[name][chosen] for name in ("label", "whole", "hidden", "broken"))
    return of_right(*(torch.from_numpy(part).long() for part in parts))
