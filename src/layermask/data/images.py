"""Pictures, masks and label maps from files: what cannot be used is refused in one sentence."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from layermask.arguments.declare import checked
from layermask.arguments.numbers import flag, optional, pair
from layermask.arguments.objects import picture
from layermask.arguments.refusal import has
from layermask.arguments.words import path as path_kind
from layermask.data.two_levels import grey_of, visible_in
from layermask.errors import ImageError, WrongType, import_optional
from layermask.io.atomic import open_file, reason

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64
    from PIL import Image

# A file of a few kilobytes can unpack to gigabytes; 100 million pixels take 0.3 GB as RGB.
MAX_PIXELS = 100_000_000
_SIZE = optional(partial(pair, of="(width, height)"))


@checked(path=path_kind, gaps=flag)
def load_image(path: str | Path, gaps: bool = False) -> Image.Image:
    """Read a picture as RGB, upright (EXIF); transparent parts on white, 16-bit greys scaled to 8 bit.

    Floats go from 0 to 1. `gaps`: NaN is taken, and black, for what hides those pixels (`load_valid`).
    """
    image = decoded(path, "image")
    return _rgb(_eight_bit(image, path, gaps), ground="white")


def as_picture(image: Any) -> Image.Image:
    """Return the Pillow image of a file, by its path, or of an array (H, W), (H, W, 3) or (H, W, 4) uint8.

    Pillow images are returned as they are.

    Raises:
        WrongType: it is something else.
        ImageError: the file cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(os.fspath(image))
    kind, shape = (str(image.dtype), tuple(image.shape)) if has(image, "dtype", "shape") else ("", ())
    if kind.removeprefix("torch.") == "uint8" and (
        len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    ):
        import numpy as np

        return _rgb(
            import_optional("PIL.Image", "cli").fromarray(np.ascontiguousarray(image)), ground="white"
        )
    if kind:
        raise WrongType(
            f"image is {kind} of {shape}: give an array (H, W, 3) uint8, a Pillow image or a path"
        )
    return picture("image", image)


def pixels_of(image: Any) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8: of what `as_picture` takes, or of a tensor (1, C, H, W) float.

    Tensors go from black at their lowest number to white at their highest. Other than three channels are
    shown as their mean.
    """
    import numpy as np

    if not has(image, "ndim") or image.ndim != 4:
        return np.asarray(as_picture(image).convert("RGB"))
    values = np.nan_to_num(np.asarray(image.detach().cpu().double() if hasattr(image, "detach") else image))
    if len(values) != 1:
        raise ImageError(f"image is a batch of {len(values)}: give one, (1, C, H, W)")
    channels = values[0] if values.shape[1] == 3 else values[0].mean(0, keepdims=True).repeat(3, 0)
    low, high = channels.min(), channels.max()
    return np.round(255 * (channels - low) / ((high - low) or 1)).astype(np.uint8).transpose(1, 2, 0)


@checked(path=path_kind, size=_SIZE)
def load_mask(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read a mask, white = visible, as a picture of 0 and 255; transparent parts are hidden.

    Soft edges, as brushes and JPEG make them, are cut at half of white, and a warning says so. Of a picture
    whose background was erased, the opaque part is visible. Two levels of which one is 0 will do, and so will
    an array (H, W) in a .npy file.

    `size`: (width, height) of the image it belongs to; a mask of the same shape and another resolution is
    resized by nearest neighbour.

    Raises:
        ImageError: the file cannot be read, is a picture of many greys, or has another shape.
    """
    import numpy as np

    path = Path(path)
    array = path.suffix.lower() == ".npy"
    values = _flat(_load_npy(path, "mask"), path) if array else grey_of(decoded(path, "mask"), path)
    visible = visible_in(values, path)
    mask = import_optional("PIL.Image", "cli").fromarray(np.where(visible, np.uint8(255), np.uint8(0)))
    return mask if size is None else fitted(mask, size, path)


def _flat(values: np.ndarray, path: Path) -> np.ndarray:
    """Return a mask (H, W) of an array (..., H, W) of one mask."""
    if values.ndim < 2 or values.size != values.shape[-1] * values.shape[-2] or not values.size:
        raise ImageError(f"mask {path} is of shape {values.shape}: expected (height, width)")
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and not (values == values).all()):
        raise ImageError(f"mask {path} is {values.dtype}: expected bool or numbers, and no NaN")
    return values.reshape(values.shape[-2:])


@checked(path=path_kind, size=_SIZE)
def load_labels(path: str | Path, size: tuple[int, int] | None = None) -> Int64[np.ndarray, "H W"]:
    """Read a label map, one integer per pixel, as an (H, W) int64 array: .npy, or a PNG or TIFF of integers.

    `size`: (width, height) of the image, as in `load_mask`.
    """
    import numpy as np

    path = Path(path)
    labels = _load_npy(path) if path.suffix == ".npy" else _label_picture(path)
    if labels.ndim != 2 or labels.dtype.kind not in "iub" or labels.size == 0:
        raise ImageError(
            f"label map {path} is {labels.dtype} of shape {labels.shape}: "
            "expected integers of shape (height, width)"
        )
    if labels.min() < 0 or labels.max() >= 2**31 - 1:
        raise ImageError(
            f"label map {path} has values from {labels.min()} to {labels.max()}: expected 0 or more"
        )
    if size is None or labels.shape == (size[1], size[0]):
        return labels.astype(np.int64)
    from PIL import Image

    return np.array(fitted(Image.fromarray(labels.astype(np.int32)), size, path)).astype(np.int64)


def decoded(path: str | Path, kind: str) -> Image.Image:
    """Decode a file in full, turned upright; the one place where Pillow's own errors are translated."""
    Image, path = import_optional("PIL.Image", "cli"), Path(path)
    name = f"{kind} {path}"
    with _file(path, kind) as file:
        try:
            return _read(file, path, kind)
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(f"{name} is not an image that Pillow can read") from None
        except Image.DecompressionBombError:
            raise ImageError(
                f"{name} has more than {MAX_PIXELS:,} pixels, the limit: scale it down"
            ) from None
        except Exception as error:  # of a damaged file, each decoder raises what it likes
            raise ImageError(f"{name} is truncated or damaged: {reason(error)}") from error


def _read(file: IO[bytes], path: Path, kind: str) -> Image.Image:
    Image = import_optional("PIL.Image", "cli")
    ImageOps = import_optional("PIL.ImageOps", "cli")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged metadata and the like: the pixels decide
        with Image.open(file) as image:
            _check_size(image.size, path, kind)
            image.load()
            return ImageOps.exif_transpose(image)


def _file(path: Path, kind: str) -> IO[bytes]:
    file = open_file(path, kind, ImageError)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise ImageError(f"{kind} {path} is empty (0 bytes)")
    return file


def _check_size(size: tuple[int, int], path: Path, kind: str) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{kind} {path} has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{kind} {path} has {width}x{height} = {width * height:,} pixels, "
            f"over the limit of {MAX_PIXELS:,}: scale it down"
        )


def _eight_bit(image: Image.Image, path: str | Path, gaps: bool) -> Image.Image:
    """Scale a grey picture of 16 bit or floats to 8 bit; Pillow's own conversion clips it to white."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image)
    white = 1 if values.dtype.kind == "f" else 65535
    if bad := int(np.isnan(values).sum()):
        if not gaps:
            raise ImageError(f"image {path} holds NaN at {bad} pixels: hide them by --nodata nan")
        values = np.nan_to_num(values)
    if values.min() < 0 or values.max() > white:
        raise ImageError(
            f"image {path} holds {values.dtype} values from {values.min():g} to {values.max():g}, "
            "whose black and white are not defined: save it with 8 or 16 bits per channel, or as floats from "
            "0 to 1"
        )
    return Image.fromarray(np.round(values / (white / 255)).astype(np.uint8))


def _rgb(image: Image.Image, ground: str) -> Image.Image:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")


def fitted(picture: Image.Image, size: tuple[int, int], path: str | Path) -> Image.Image:
    """Resize by nearest neighbour to (width, height), if the two have the same shape."""
    from PIL import Image

    if picture.size == size:
        return picture
    if not same_shape(picture.size, size):
        (w, h), (width, height) = picture.size, size
        turned = (
            "; it has the size of the image before its EXIF rotation" if (w, h) == (height, width) else ""
        )
        raise ImageError(
            f"{path} is {w}x{h} and the image {width}x{height}: give one of the same shape{turned}"
        )
    return picture.resize(size, Image.Resampling.NEAREST)


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one scale factor explains both sides, within a pixel."""
    (w, h), (width, height) = one, other
    return abs(w * height - h * width) <= max(width, height, w, h)


def _load_npy(path: Path, kind: str = "label map") -> np.ndarray:
    import numpy as np

    with _file(path, kind) as file:
        try:
            labels = np.load(file, allow_pickle=False)
        except Exception as error:  # of a damaged header, numpy raises what Python's parser does
            raise ImageError(f"{kind} {path} is not a readable .npy file: {reason(error)}") from error
        if not isinstance(labels, np.ndarray):
            raise ImageError(f"{kind} {path} holds several arrays (.npz): save one with numpy.save")
        return labels


def _label_picture(path: Path) -> np.ndarray:
    import numpy as np

    image = decoded(path, "label map")
    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA"):
        raise ImageError(
            f"label map {path} is a {image.mode} picture: expected one integer per pixel "
            "(a grey or palette PNG, a 16-bit PNG, or an .npy file)"
        )
    return np.array(image)  # of a palette picture: the indices, not the colours
