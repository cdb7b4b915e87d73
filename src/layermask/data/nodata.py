"""Which pixels of a picture file hold no data: by a value, NaN, its alpha, or a mask file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.arguments.declare import checked
from layermask.arguments.words import path as path_kind
from layermask.arguments.words import text
from layermask.data.images import decoded
from layermask.data.polygons import load_region
from layermask.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool
    from PIL import Image


def _nodata(name: str, value: Any) -> str:
    """Return a word that may name a file."""
    return str(path_kind(name, text(name, value)))


@checked(path=path_kind, nodata=_nodata)
def load_valid(path: str | Path, nodata: str) -> Image.Image:
    """Return which pixels of a picture hold data, as a picture of 255 and of 0 for those that hold none.

    Args:
        path: the picture.
        nodata: a number, as "0", that all channels of a pixel without data have, in the file's own units;
            "nan" for floats, of which NaN is never data; "alpha" for all that is not wholly opaque; a mask
            file, white = data; or a .json file of polygons (labelme, COCO) around what is no data.

    Raises:
        ImageError: a file cannot be read, the picture has no alpha or no floats, or nothing of it is left.
    """
    import numpy as np
    from PIL import Image

    image = decoded(path, "image")
    values = np.asarray(image)
    data = _holds_data(image, nodata, path)
    if values.dtype.kind == "f":
        data = data & ~np.isnan(values)
    if not data.any():
        raise ImageError(f"image {path} holds no data at all with nodata {nodata}: nothing is left of it")
    return Image.fromarray(np.where(data, np.uint8(255), np.uint8(0)))


def _holds_data(image: Image.Image, nodata: str, path: str | Path) -> Bool[np.ndarray, "H W"]:
    import numpy as np

    if nodata == "alpha":
        if not image.has_transparency_data:
            raise ImageError(f"image {path} is {image.mode}, without alpha: give a value, nan or a mask file")
        return np.asarray(image.convert("RGBA"))[..., 3] == 255
    if (number := _number(nodata)) is None:
        return (np.asarray(load_region(nodata, image.size)) > 0) != (Path(nodata).suffix == ".json")
    if image.mode not in ("RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    values = np.atleast_3d(np.asarray(image).astype(np.float64))
    return ~(values == number).all(-1)


def _number(nodata: str) -> float | None:
    try:
        return float(nodata)
    except ValueError:
        return None
