"""Masks and saliency maps of pictures, read from files: label maps, polygons and run lengths too."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layermask.arguments.refusal import shown
from layermask.data.images import load_image, load_mask
from layermask.data.source import Size, file_size
from layermask.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, UInt8
    from PIL import Image


def _named(paths: tuple[Path, ...], root: Path) -> str:
    """Return names and sizes; a file outside the root is known by its name alone."""
    inside = (p.relative_to(root) if p.is_relative_to(root) else p.name for p in paths)
    return json.dumps([[str(name), file_size(path)] for name, path in zip(inside, paths, strict=True)])


@dataclass(frozen=True)
class MaskFile:
    """A two-level picture, white = object."""

    path: Path

    def __call__(self, size: Size) -> Image.Image:
        return load_mask(self.path, size)

    def fingerprint(self, root: Path) -> str:
        return _named((self.path,), root)


@dataclass(frozen=True)
class ClassPixels:
    """The pixels of one class of an RGB label map, where red + 256 green is the class (ImageNet-S)."""

    path: Path
    value: int

    def __call__(self, size: Size) -> Image.Image:
        import numpy as np
        from PIL import Image

        pixels = np.asarray(_same_size(load_image(self.path), size, self.path)).astype(np.int64)
        return Image.fromarray(_white(pixels[..., 0] + 256 * pixels[..., 1] == self.value))

    def fingerprint(self, root: Path) -> str:
        return f"{_named((self.path,), root)} {self.value}"


@dataclass(frozen=True)
class MostSalient:
    """The maximum of several grey maps (Salient ImageNet: one per feature), resized to the picture."""

    paths: tuple[Path, ...]

    def __call__(self, size: Size) -> Image.Image:
        import numpy as np
        from PIL import Image

        maps = [load_image(path).convert("L").resize(size, Image.Resampling.BILINEAR) for path in self.paths]
        return Image.fromarray(np.max([np.asarray(each) for each in maps], axis=0))

    def fingerprint(self, root: Path) -> str:
        return _named(self.paths, root)


class Shape(NamedTuple):
    """A COCO segmentation: a list of polygons, or run lengths, plain or compressed."""

    segmentation: Any
    where: str
    """The entry that holds it, for errors."""


@dataclass(frozen=True)
class Shapes:
    """The union of COCO segmentations, in a picture of this size.

    `name`: of the picture, `where`: the entry that gives its size, both for errors.
    """

    shapes: tuple[Shape, ...]
    size: Size
    name: str
    where: str

    def __call__(self, size: Size) -> Image.Image:
        import numpy as np
        from PIL import Image

        union = np.zeros((self.size[1], self.size[0]), bool)
        for shape in self.shapes:
            union |= self._decoded(shape)
        return _same_size(Image.fromarray(_white(union)), size, f"{self.name} ({self.where})")

    def fingerprint(self, root: Path) -> str:
        plain = [shape.segmentation for shape in self.shapes]
        return hashlib.sha256(json.dumps([plain, self.size]).encode()).hexdigest()

    def _decoded(self, shape: Shape) -> Bool[np.ndarray, "H W"]:
        found = shape.segmentation
        try:
            return self._runs(found) if isinstance(found, dict) else self._polygons(found)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ImageError(
                f"mask of {self.name} ({shape.where}): its segmentation cannot be used, as polygons or run "
                f"lengths ({error})"
            ) from error

    def _polygons(self, polygons: Any) -> Bool[np.ndarray, "H W"]:
        import numpy as np
        from PIL import Image, ImageDraw

        if not isinstance(polygons, list) or not polygons:
            raise ValueError(f"it is {shown(polygons)}")
        picture = Image.new("1", self.size)
        for polygon in polygons:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"a polygon is {shown(polygon)}: give three x, y pairs or more")
            ImageDraw.Draw(picture).polygon([_coordinate(value) for value in polygon], fill=1)
        return np.asarray(picture)

    def _runs(self, encoded: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
        """Decode runs of background and object in turn, down the columns."""
        import numpy as np

        counts, (height, width) = encoded["counts"], encoded["size"]
        lengths = _uncompressed(counts) if isinstance(counts, str) else [whole(count) for count in counts]
        full = whole(width) * whole(height)
        if sum(lengths) != full or (width, height) != self.size or min(lengths, default=0) < 0:
            raise ValueError(
                f"runs over {sum(lengths)} pixels of a {width}x{height} mask for an "
                f"image of {self.size[0]}x{self.size[1]}"
            )
        values = np.arange(len(lengths)) % 2 == 1
        return values.repeat(lengths).reshape(width, height).T


def whole(value: Any) -> int:
    """Return a whole number of a JSON file, where true and 1 are two things."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{shown(value)} is not a whole number")
    return value


def _coordinate(value: Any) -> float:
    if isinstance(value, bool) or not abs(value) < 2**31:  # NaN too
        raise ValueError(f"a coordinate is {value}")
    return float(value)


def _uncompressed(text: str) -> list[int]:
    """Return the run lengths of COCO's text form.

    Five bits to a character from "0" on, low bits first, a sixth that says more follow, the last one signed;
    from the fourth run on, the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        value |= (code & 31) << shift
        shift += 5
        if code & 32 and shift < 64:
            continue
        value -= (1 << shift) if code & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _white(where: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    import numpy as np

    return np.where(where, np.uint8(255), np.uint8(0))


def _same_size(picture: Image.Image, size: Size, where: Any) -> Image.Image:
    if picture.size != size:
        raise ImageError(
            f"the mask of {where} is {picture.width}x{picture.height} and the image {size[0]}x{size[1]}: "
            "give files that belong together"
        )
    return picture
