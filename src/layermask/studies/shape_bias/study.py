"""Mask-shape bias: does the shape of a hole tell the model what was in it?

Balasubramanian and Feizi 2023, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from layermask.data.source import Sample, Source
from layermask.errors import InputError
from layermask.metrics.shape_bias import broken_mask
from layermask.removal.registry import REMOVALS
from layermask.studies.prepared import object_mask
from layermask.studies.protocol import OverRemovals, chances, check_labels, kind_of_labels, label_of
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded


@dataclass(frozen=True)
class PreparedImage:
    """A picture to be asked about: x (1, C, H, W), its object (1, 1, H, W) bool."""

    sample: Sample
    x: Tensor
    object: Tensor


@dataclass(frozen=True)
class ShapeBiasStudy(OverRemovals):
    """Rows for each picture × removal, of pictures with object masks.

    The model is asked about the whole picture, without the object, and without the quadrants of the object's
    mask swapped (`metrics.broken_mask`). Where the data has no labels, the plain model's prediction is the
    label. Pictures with no object, or nothing else, have rows, and no part in the summary.
    """

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.removals:
            if name in REMOVALS and REMOVALS[name].needs_segments:
                raise InputError(
                    f"removal {name!r} paints segments, and here objects are hidden: choose another removal"
                )

    def check(self, source: Source, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this data and model."""
        source.having("mask")
        check_labels(source, loaded)

    def settings(self, source: Source) -> dict[str, Any]:
        """Return what rows depend on besides the pictures and the model."""
        return {"removals": list(self.removals), "labels": kind_of_labels(source)}

    def prepare(self, sample: Sample, loaded: Loaded) -> PreparedImage:
        """Read a picture and its mask.

        Raises:
            ImageError: one of them cannot be read.
        """
        picture = sample.load_image()
        mask = object_mask(sample, picture.size, loaded)[None, None]
        return PreparedImage(sample, loaded.preprocessing(picture), mask)

    def rows(self, scene: PreparedImage, loaded: Loaded, device: torch.device, batch_size: int) -> list[Row]:
        """Return the rows of one picture, which never depend on another; `batch_size` masks at a time."""
        x, name = scene.x.to(device), scene.sample.name
        label = label_of(scene.sample, x, loaded)
        masks = torch.cat([torch.ones_like(scene.object), ~scene.object, ~broken_mask(scene.object)])
        common = {"image": name, "object": float(scene.object.double().mean()), "label": label}
        return [
            {
                **common,
                "removal": each,
                **_row(chances(self.made(each, loaded), x, masks, batch_size), label),
            }
            for each in self.removals
        ]


def _row(found: Tensor, label: int) -> Row:
    parts = dict(zip(("whole", "hidden", "broken"), found, strict=True))
    return {
        **{name: int(each.argmax()) for name, each in parts.items()},
        **{f"{name}_confidence": float(each[label]) for name, each in parts.items()},
    }
