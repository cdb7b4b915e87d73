"""The preprocessing that each model library keeps for its weights, as one `Preprocessing`."""

from __future__ import annotations

import math
from typing import Any

from layermask.errors import ModelError, import_optional
from layermask.zoo.preprocessing import Fit, Preprocessing

FITS: dict[str, Fit] = {"center": "cover", "squash": "squash", "border": "contain"}  # timm's names


def from_timm(model: Any) -> Preprocessing:
    """Read the evaluation settings of a timm model."""
    config = import_optional("timm.data", "timm").resolve_model_data_config(model)
    crop = config["input_size"][1:]
    return Preprocessing(
        resize=tuple(math.floor(side / config["crop_pct"]) for side in crop),
        crop=tuple(crop),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fit=FITS[config["crop_mode"]],
    )


def from_torchvision(transforms: Any) -> Preprocessing:
    """Read the transforms that torchvision keeps with its weights."""
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    return Preprocessing(
        resize=(resize, resize),
        crop=(crop, crop),
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def from_processor(processor: Any) -> Preprocessing:
    """Read an image processor of transformers; its classes differ, so the two are compared on a picture."""
    mean, std = _scale(processor)
    resize, crop, fit = _geometry(processor)
    preprocessing = Preprocessing(
        resize=resize,
        crop=crop,
        interpolation=_interpolation(processor),
        mean=mean,
        std=std,
        fit=fit,
        order="BGR" if getattr(processor, "do_flip_channel_order", False) else "RGB",
    )
    _compare(processor, preprocessing)
    return preprocessing


def _geometry(processor: Any) -> tuple[tuple[int, int], tuple[int, int], Fit]:
    size = processor.size
    crop = _pair(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    percent = getattr(processor, "crop_pct", None)
    short = _get(size, "shortest_edge")
    if not short:
        return _pair(size), crop or _pair(size), "squash"
    if percent and crop is None and short >= 384:  # ConvNeXt at 384 pixels and more
        return (short, short), (short, short), "squash"
    if "Levit" in type(processor).__name__:
        percent = 224 / 256
    resized = int(short / percent) if percent else short
    return (resized, resized), crop or (short, short), "cover"


def _pair(size: Any) -> tuple[int, int]:
    short = _get(size, "shortest_edge")
    return (short, short) if short else (_get(size, "height"), _get(size, "width"))


def _get(size: Any, key: str) -> Any:
    return size.get(key) if hasattr(size, "get") else getattr(size, key, None)


def _interpolation(processor: Any) -> Any:
    resampling = import_optional("PIL.Image", "cli").Resampling
    return resampling(int(processor.resample)).name.lower()


def _scale(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of pixel values in [0, 1], whatever the processor multiplies pixel values by."""
    unit = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    normalised = getattr(processor, "do_normalize", False)
    mean = processor.image_mean if normalised else (0.0,) * 3
    std = processor.image_std if normalised else (1.0,) * 3
    return tuple((m + offset) / unit for m in mean), tuple(s / unit for s in std)


def _compare(processor: Any, preprocessing: Preprocessing) -> None:
    numpy, image = import_optional("numpy", "hf"), import_optional("PIL.Image", "cli")
    across, down = numpy.meshgrid(numpy.linspace(0, 6, 500), numpy.linspace(0, 4, 400))
    waves = numpy.stack([numpy.sin(across), numpy.cos(down), numpy.sin(across + down)], -1)
    picture = image.fromarray((127.5 + 127 * waves).astype("uint8"))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = preprocessing(picture)
    # Tensor and picture resizing round differently, by a level or two of 255.
    if theirs.shape != ours.shape or (theirs - ours).abs().max() * min(preprocessing.std) > 3 / 255:
        raise ModelError(
            f"the preprocessing of {type(processor).__name__} is not one that layermask knows: "
            "load the model with transformers yourself, and build layermask.zoo.Loaded with your own "
            "Preprocessing"
        )
