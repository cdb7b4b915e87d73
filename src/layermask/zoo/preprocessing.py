"""`Preprocessing`: from a picture to the tensor that a model was trained on, and the same crop for masks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.numbers import same_length
from layermask.data.images import as_picture
from layermask.errors import ImageError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8
    from PIL import Image

MOST_PIXELS = 20_000  # along a side: as RGB, a square of that size has over 1 GB
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Fit = Literal["cover", "contain", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Size = Annotated[tuple[int, int], partial(kinds.pair, of="(height, width)", high=MOST_PIXELS)]


@dataclass(frozen=True)
class Preprocessing(Checked):
    """Resize, centre-crop and normalise one picture.

    `resize`: (height, width) in pixels that the picture covers, is contained in or is squashed to (`fit`).
    `crop`: (height, width) of the centre crop. `mean`, `std`: per channel, of pixel values in [0, 1].
    """

    resize: Size = (256, 256)
    crop: Size = (224, 224)
    interpolation: Interpolation = "bilinear"
    mean: Annotated[tuple[float, ...], kinds.numbers] = IMAGENET_MEAN
    std: Annotated[tuple[float, ...], partial(kinds.numbers, above=0)] = IMAGENET_STD
    fit: Fit = "cover"
    order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        super().__post_init__()
        same_length(mean=self.mean, std=self.std)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(
        self, image: Image.Image | str | Path | np.ndarray
    ) -> Float32[Tensor, "1 C {self.crop[0]} {self.crop[1]}"]:
        """Return the (1, C, H, W) float tensor for a picture of any mode; C is 1 or 3.

        `image`: a Pillow image, the path of a file, or an array (H, W) or (H, W, 3) uint8.
        """
        image = as_picture(image)
        pixels = self._frame(image.convert(self._mode()), self.interpolation, self._pad_colour())
        x = _tensor(pixels).reshape(*self.crop, self.channels).permute(2, 0, 1)[None]
        x = x.flip(1) if self.order == "BGR" else x
        return (x.float().div(255) - self._row(self.mean)) / self._row(self.std)

    def mask(self, mask: Image.Image) -> Bool[Tensor, "1 1 {self.crop[0]} {self.crop[1]}"]:
        """Return the (1, 1, H, W) bool tensor of a picture of 0 and 255, by nearest neighbour only."""
        # Padding of the crop is visible, so that an all-white mask gives the plain model.
        mask = kinds.picture("mask", mask)
        return _tensor(self._frame(mask.convert("L"), "nearest", 255))[None, None] > 0

    def valid(self, mask: Image.Image) -> Bool[Tensor, "1 1 {self.crop[0]} {self.crop[1]}"]:
        """Return the (1, 1, H, W) bool tensor of pixels that are made of data alone, of 255 in a picture of 0
        and 255: what resizing mixes with a pixel without data holds no data either."""
        import numpy as np
        from PIL import Image

        gaps = np.where(np.asarray(kinds.picture("mask", mask).convert("L")) > 0, 0.0, np.nan)
        frame = self._frame(Image.fromarray(gaps.astype(np.float32)), self.interpolation, 0)
        return ~_tensor(frame).isnan()[None, None]

    def labels(self, labels: Shaped[np.ndarray, "H W"]) -> Int64[Tensor, "{self.crop[0]} {self.crop[1]}"]:
        """Return the (H, W) int64 crop of an integer label map, nearest neighbour only."""
        from PIL import Image

        # 32-bit pictures carry any label; padding becomes a segment of its own.
        labels = kinds.label_map("labels", labels).numpy()
        if labels.ndim != 2 or labels.min() < -(2**31) or labels.max() >= 2**31 - 1:
            raise InputError(f"labels of shape {labels.shape}: give (H, W), with numbers of 32 bits")
        picture = Image.fromarray(labels.astype("int32"))
        return _tensor(self._frame(picture, "nearest", int(labels.max()) + 1)).long()

    def picture(self, x: Float[Tensor, "*N C H W"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the (H, W, 3) uint8 picture of a normalised (1, C, H, W) or (C, H, W) tensor."""
        x = kinds.values("x", x)
        if x.ndim not in (3, 4) or x.numel() != self.channels * x.shape[-2] * x.shape[-1]:
            raise InputError(f"x is of shape {tuple(x.shape)}: give (1, {self.channels}, H, W), one image")
        x = x.detach().cpu().reshape(1, self.channels, *x.shape[-2:])
        x = x * self._row(self.std) + self._row(self.mean)
        x = (x.flip(1) if self.order == "BGR" else x)[0].permute(1, 2, 0)
        return x.mul(255).round().clamp(0, 255).to(torch.uint8).expand(-1, -1, 3).numpy()

    def record(self) -> dict[str, Any]:
        """Return the fields as plain values, for a JSON file: `Preprocessing.restore` reads them."""
        return asdict(self)

    @classmethod
    def restore(cls, record: dict[str, Any]) -> Preprocessing:
        """Return the preprocessing of a `record`."""
        fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in record.items()}
        return cls(**fields)

    def _mode(self) -> str:
        if self.channels not in (1, 3):
            raise ImageError(
                f"the model takes {self.channels} channels and a picture has 1 or 3: "
                "prepare the tensor yourself and call the Python API"
            )
        return "L" if self.channels == 1 else "RGB"

    def _pad_colour(self) -> int | tuple[int, ...]:
        # timm pads with the mean colour where it fits the whole picture in, torchvision's crop with black.
        colour = tuple(round(255 * m) for m in self.mean) if self.fit == "contain" else (0,) * self.channels
        return colour[0] if self.channels == 1 else colour

    def _row(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(1, -1, 1, 1)

    def _frame(self, image: Image.Image, interpolation: str, pad: int | tuple[int, ...]) -> Image.Image:
        from PIL import Image

        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling[interpolation.upper()])
        return _centre(image, self.crop, pad)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) after the resize, rounded as torchvision and timm round."""
        tall, wide = self.resize
        if self.fit == "squash":
            return wide, tall
        if self.fit == "cover" and tall == wide:
            short, long = sorted((width, height))
            long = int(tall * long / short)
            return (tall, long) if width <= height else (long, tall)
        pick = min if self.fit == "cover" else max
        ratio = pick(height / tall, width / wide)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(image: Image.Image, crop: tuple[int, int], pad: int | tuple[int, ...]) -> Image.Image:
    """Crop (height, width) about the centre; where the picture is smaller, surround it with `pad`."""
    from PIL import Image

    height, width = crop
    room = max(width, image.width), max(height, image.height)
    if room != image.size:
        canvas = Image.new(image.mode, room, pad)
        canvas.paste(image, ((room[0] - image.width) // 2, (room[1] - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _tensor(image: Image.Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(image))
