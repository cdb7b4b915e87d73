"""A picture and its object as the model sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.errors import printable
from layermask.io.answers import said

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from layermask.data.source import Sample
    from layermask.removal.reading import OutputName
    from layermask.zoo.loaded import Loaded


def object_mask(sample: Sample, size: tuple[int, int], loaded: Loaded) -> Tensor:
    """Return the object (H, W) bool, resized and cropped as the picture, by nearest neighbour.

    `size`: (width, height) of the picture. What a crop pads is no object.
    """
    background = sample.load_mask(size).point(lambda value: 255 - value)
    return ~loaded.preprocessing.mask(background)[0, 0]


@dataclass(frozen=True)
class PreparedSample:
    """A picture of a study, as the model sees it: x (1, C, H, W) and label maps (H, W) by segmentation.

    And what the study needs of the rest: the object (H, W) bool, the saliency (H, W).
    """

    sample: Sample
    x: Tensor
    segments: dict[str, Tensor]
    object: Tensor | None = None
    saliency: Tensor | None = None


TopClasses = list[tuple[int, float]]  # classes and answers, the most likely first


@dataclass(frozen=True)
class PreparedImage:
    """A picture before a model. `size`: (width, height) of the upright picture; `x`: (1, C, H, W).

    `valid`: the pixels that may be visible, (1, 1, H, W) bool; None for all.
    """

    path: Path
    size: tuple[int, int]
    loaded: Loaded
    weights: Path | None
    x: Tensor
    output: OutputName = "probability"
    scored: bool = True
    """Whether the model answers scores of classes, which can be ranked."""
    valid: Tensor | None = None

    @property
    def title(self) -> str:
        return printable(f"{self.path.name}, {self.loaded.name}")

    @cached_property
    def picture(self) -> np.ndarray:
        return self.loaded.preprocessing.picture(self.x)

    @cached_property
    def predictions(self) -> TopClasses:
        from layermask.removal.query import Unmasked

        return rank(Unmasked(self.loaded.model), self.x, output=self.output) if self.scored else []

    def label(self, index: Any) -> str:
        from layermask.zoo.labels import short

        if not isinstance(index, int):
            return str(index)  # a target that is no class
        return short(self.loaded.labels[index]) if index < len(self.loaded.labels) else f"class {index}"

    def named(self, ranking: TopClasses) -> list[tuple[str, float]]:
        return [(self.label(index), value) for index, value in ranking]

    def listed(self, ranking: TopClasses) -> str:
        """Return a line per class: its answer and its name."""
        return "\n".join(f"  {said(value, self.output):>7}  {name}" for name, value in self.named(ranking))

    def entries(self, ranking: TopClasses) -> list[dict[str, Any]]:
        unit = "logit" if self.output == "logit" else "probability"
        return [
            {**({"class": index} if isinstance(index, int) else {}), "label": self.label(index), unit: value}
            for index, value in ranking
        ]

    def record(self) -> dict[str, Any]:
        """Return the entries of the JSON file that both commands have."""
        from layermask.io import record

        image = {"file": self.path.name, "size": list(self.size), "sha256": record.sha256(self.path)}
        return {
            "versions": record.versions(),
            "image": image,
            "model": self.loaded.record(self.weights),
            "device": self.x.device.type,
            "predictions": self.entries(self.predictions),
        }


def open_image(
    image: Path,
    loaded: Loaded,
    device: torch.device,
    weights: Path | None,
    output: OutputName = "probability",
    scored: bool = True,
    nodata: str | None = None,
) -> PreparedImage:
    """Read a picture; `nodata` says which of its pixels hold none, as of `data.load_valid`."""
    from layermask.data.images import load_image

    picture = load_image(image, gaps=nodata is not None)
    x = loaded.preprocessing(picture).to(device)
    return PreparedImage(
        image, picture.size, loaded, weights, x, output, scored, _valid(image, loaded, x, nodata)
    )


def _valid(image: Path, loaded: Loaded, x: Tensor, nodata: str | None) -> Tensor | None:
    from layermask.data.nodata import load_valid
    from layermask.errors import ImageError

    if nodata is None:
        return None
    valid = loaded.preprocessing.valid(load_valid(image, nodata)).to(x.device)
    if not valid.any():
        raise ImageError(f"image {image} holds no data in what the model sees of it, by --nodata {nodata}")
    return valid


def rank(
    removal: Callable[..., Any],
    x: Tensor,
    visible: Tensor | None = None,
    count: int = 5,
    output: OutputName = "probability",
    valid: Tensor | None = None,
) -> TopClasses:
    """Return the likeliest classes of a picture x (1, C, H, W), of which `visible` (1, 1, H, W) is shown.

    Of that, only what is `valid`. `output`: what their numbers are, a name in `removal.reading.OUTPUTS`.
    """
    import torch

    from layermask.removal.gaps import never_visible
    from layermask.removal.query import answers
    from layermask.removal.reading import OF_CLASSES

    removal, x = never_visible(removal, x, valid)

    visible = torch.ones_like(x[:, :1], dtype=torch.bool) if visible is None else visible
    (found,) = answers(removal, [(x, visible)], output, compared=output in OF_CLASSES)
    numbers, classes = found[0].topk(min(count, found.shape[1]))
    return list(zip(classes.tolist(), numbers.tolist(), strict=True))
