"""Images of any number of channels and bits from files, as tensors in the file's own units, NaN = no data.

What reads them needs `valid="nan"`, or `NaNHidden(removal)`; normalise as the model expects, NaN stays NaN.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.arguments.declare import checked
from layermask.arguments.numbers import count, optional, several
from layermask.arguments.words import path as path_kind
from layermask.data.images import decoded
from layermask.errors import ImageError, import_optional
from layermask.io.atomic import exists, reason

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Shaped


@checked(path=path_kind)
def load_pixels(path: str | Path) -> Float32[Tensor, "1 C H W"]:
    """Read a picture of any bits as (1, C, H, W) float32, upright: 1 or 3 channels, 0 to 255 or 65535.

    Pixels that alpha says are wholly transparent are NaN; alpha itself is no channel.
    """
    import numpy as np

    image = decoded(path, "image")
    plain = image.mode in ("L", "RGB", "F") or image.mode.startswith("I")
    if not plain or image.has_transparency_data:
        grey, alpha = image.mode in ("1", "LA", "L"), _alpha(image)
        values = np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32))
        return _channels_first(values if alpha is None else np.where(alpha[..., None] > 0, values, np.nan))
    return _channels_first(np.atleast_3d(np.asarray(image).astype(np.float32)))


def _alpha(image: Any) -> Shaped[np.ndarray, "H W"] | None:
    import numpy as np

    return np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else None


@checked(path=path_kind, bands=optional(partial(several, kind=count)))
def load_raster(path: str | Path, bands: Sequence[int] | None = None) -> Float32[Tensor, "1 C H W"]:
    """Read a GeoTIFF, or any raster that rasterio reads, as (1, C, H, W) float32, its numbers as stored.

    A band's pixels are NaN where the file says that it holds no data: by its nodata value, mask or alpha.

    Args:
        path: the file.
        bands: which bands, from 1 as in rasterio; by default all that are no alpha.

    Raises:
        MissingPackage: rasterio is not installed.
        ImageError: the file cannot be read, or has no such band.
    """
    import numpy as np

    rasterio = import_optional("rasterio", "raster")
    try:
        with _quietly(rasterio), rasterio.open(path) as file:
            alpha = rasterio.enums.ColorInterp.alpha
            own = [n for n, kind in zip(file.indexes, file.colorinterp, strict=True) if kind != alpha]
            wanted = own if bands is None else list(bands)
            values, shown = file.read(wanted), file.read_masks(wanted)
    except (rasterio.errors.RasterioError, IndexError) as error:
        raise ImageError(f"raster {path} cannot be read: {reason(error)}") from error
    return torch.from_numpy(np.where(shown > 0, values, np.nan).astype(np.float32))[None]


@contextlib.contextmanager
def _quietly(rasterio: Any) -> Iterator[None]:
    """Within the block, a file need not say where on earth it lies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@checked(path=path_kind)
def load_volume(path: str | Path) -> Float32[Tensor, "1 C X Y Z"]:
    """Read a NIfTI volume as (1, C, X, Y, Z) float32, its scale applied and its axes as they are stored.

    A fourth axis of the file (time, or channels) becomes C. NIfTI has no word for no data: what is NaN in
    the file stays NaN, and other values are set by you, `volume[volume == 0] = nan`.

    Raises:
        MissingPackage: nibabel is not installed.
        ImageError: the file cannot be read, or holds no volume.
    """
    import numpy as np

    nibabel = import_optional("nibabel", "volume")
    if not exists(Path(path)):
        raise ImageError(f"volume {path} does not exist")
    try:
        values = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    except Exception as error:  # of a damaged file, nibabel raises what its parts do
        raise ImageError(f"volume {path} cannot be read: {reason(error)}") from error
    values = values.reshape(*values.shape[:3], -1) if values.ndim in (3, 4) else values
    if values.ndim != 4 or not values.size:
        raise ImageError(f"volume {path} is of shape {values.shape}: three or four axes are read")
    return _channels_first(values)


def _channels_first(values: Shaped[np.ndarray, "*S C"]) -> Float32[Tensor, "1 C *S"]:
    import numpy as np

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32))[None]
