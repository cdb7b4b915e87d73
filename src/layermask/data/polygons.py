"""Regions drawn by hand: polygons of labelme and COCO files as a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.arguments.declare import checked
from layermask.arguments.numbers import optional
from layermask.arguments.words import path as path_kind
from layermask.arguments.words import text
from layermask.data.images import fitted, load_mask
from layermask.data.overlays import Shape, Shapes, whole
from layermask.data.source import Size
from layermask.errors import ImageError
from layermask.io.atomic import read_json

if TYPE_CHECKING:
    from PIL import Image


def load_region(path: str | Path, size: Size) -> Image.Image:
    """Read a mask file (`load_mask`), or a .json file of polygons, for a picture of this (width, height)."""
    if Path(path).suffix.lower() != ".json":
        return load_mask(path, size)
    return fitted(load_polygons(path), size, path)


@checked(path=path_kind, image=optional(text), label=optional(text))
def load_polygons(path: str | Path, image: str | None = None, label: str | None = None) -> Image.Image:
    """Return what lies within the polygons of a labelme or COCO file as a picture of 255 and 0.

    Args:
        path: the .json file. Of labelme: polygons and rectangles; of COCO: polygons and run lengths.
        image: which picture of a COCO file, by its file name; not needed where it has one.
        label: only regions of this label, or category.

    Raises:
        ImageError: the file is of neither kind, or has no such picture or region.
    """
    content = read_json(path, "polygons")
    try:
        read = _labelme(content, label) if "shapes" in content else _coco(content, image, label)
        name, size, shapes = read
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"polygons {path} are neither labelme's nor COCO's: {error!r}") from error
    if not shapes:
        wanted = "" if label is None else f" of label {label!r}"
        raise ImageError(f"polygons {path} have no region{wanted} for {name}")
    where = [Shape(segmentation, f"{path}, region {n}") for n, segmentation in enumerate(shapes)]
    return Shapes(tuple(where), size, name, str(path))(size)


Found = tuple[str, Size, list[Any]]  # the picture's name, its (width, height), its segmentations


def _labelme(content: dict[str, Any], label: str | None) -> Found:
    size = whole(content["imageWidth"]), whole(content["imageHeight"])
    shapes = [shape for shape in content["shapes"] if label in (None, shape["label"])]
    return str(content.get("imagePath")), size, [_outline(shape) for shape in shapes]


def _outline(shape: dict[str, Any]) -> list[list[float]]:
    """Return a shape of labelme as a polygon of COCO."""
    kind, points = shape.get("shape_type", "polygon"), shape["points"]
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind != "polygon":
        raise ValueError(f"a {kind} where polygons and rectangles are read")
    return [[number for x, y in points for number in (x, y)]]


def _coco(content: dict[str, Any], image: str | None, label: str | None) -> Found:
    entry = _picture(content["images"], image)
    names = {each["id"]: each["name"] for each in content.get("categories", [])}
    own = [each for each in content["annotations"] if each["image_id"] == entry["id"]]
    shapes = [each["segmentation"] for each in own if label in (None, names.get(each.get("category_id")))]
    return str(entry["file_name"]), (whole(entry["width"]), whole(entry["height"])), shapes


def _picture(entries: Sequence[dict[str, Any]], image: str | None) -> dict[str, Any]:
    found = [each for each in entries if image is None or Path(each["file_name"]).name == Path(image).name]
    if len(found) != 1:
        names = ", ".join(str(each["file_name"]) for each in entries[:3])
        raise ValueError(f"image {image}: give the name of one of its {len(entries)} pictures, as {names}")
    return found[0]
