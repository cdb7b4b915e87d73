"""Images, masks, label maps, classes and other tensors."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import is_readable
from layermask.arguments.numbers import count, sequence
from layermask.arguments.refusal import has, refused, shown, wrong_type
from layermask.arguments.words import choice
from layermask.errors import InputError, WrongType

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_HINTS = {
    "ndarray": " Use torch.from_numpy.",
    "Image": " Use the model's preprocessing.",
    "list": " Use torch.stack.",
}


def tensor(name: str, value: Any) -> Tensor:
    """Return a dense tensor with values. Refuse arrays, pictures, and sparse or quantised tensors.

    A compiler's fake tensor is accepted: it has a real device.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        hint = _HINTS.get("Image" if kind.endswith(("Image", "ImageFile")) else kind, "")
        raise WrongType(f"{name} must be a torch.Tensor, not {kind}.{hint}")
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        raise WrongType(
            f"{name} must be a dense tensor, not {value.layout} of {value.dtype}: use to_dense or dequantize"
        )
    if value.device.type == "meta":
        raise WrongType(
            f"{name} is on meta, a device without values, {value.dtype} of {tuple(value.shape)}: give one "
            "on the device of the model"
        )
    if value.is_floating_point() and value.dtype not in FLOATS:
        raise WrongType(
            f"{name} is {value.dtype}, with which torch does not compute: convert it, as {name}.float()"
        )
    return value


def values(name: str, value: Any, ndim: int | None = None, *, finite: bool = False) -> Tensor:
    """Return a tensor of real numbers: with `ndim` dims, not empty."""
    found = tensor(name, value)
    if found.is_complex():
        raise wrong_type(name, found.dtype, "give real numbers")
    if not found.numel() or (ndim is not None and found.ndim != ndim):
        dims = "" if ndim is None else f" with {ndim} dims"
        raise refused(name, tuple(found.shape), f"give a tensor{dims} that is not empty")
    if finite and not bool(found.isfinite().all()):
        bad = int((~found.isfinite()).sum())
        raise refused(name, found, f"{bad} numbers are not finite, give finite ones")
    return found


def images(name: str, value: Any) -> Tensor:
    """Return images (N, C, *S) float, one or more."""
    found = tensor(name, value)
    if found.ndim < 3 or not found.is_floating_point() or not found.numel():
        raise WrongType(
            f"{name} must be a float tensor (N, C, *S), N above 0, got {found.dtype} of "
            f"{tuple(found.shape)}: normalise pictures as the model expects"
        )
    return found


def image(name: str, value: Any) -> Tensor:
    """Return one image (1, C, *S) float."""
    found = tensor(name, value)
    if found.ndim < 3 or len(found) != 1:
        advice = f"give {name}[None]" if found.ndim < 4 else "give one, or use what takes a batch"
        raise InputError(f"{name}: expected one image (1, C, *S), got {tuple(found.shape)}: {advice}")
    return images(name, found)


def mask(name: str, value: Any) -> Tensor:
    """Return a mask as bool: it is bool, or 0 and 1 throughout."""
    found = tensor(name, value)
    if found.dtype is torch.bool:
        return found
    if found.is_complex():
        raise WrongType(f"{name} must be bool, not {found.dtype}.")
    odd = (found != 0) & (found != 1)
    if is_readable(odd) and bool(odd.any()):
        raise InputError(
            f"{name} of dtype {found.dtype} holds {int(odd.sum())} values other than 0 and 1 (the first "
            f"is {found[odd][0].item():g}): threshold it, or resize by nearest neighbour, not bilinearly."
        )
    return found != 0


def valid(name: str, value: Any) -> Any:
    """Return which pixels may be visible: "nan", a mask, or None for all."""
    if value is None or isinstance(value, str):
        return value if value is None else choice(name, value, ("nan",))
    return mask(name, value)


def label_map(name: str, value: Any) -> Tensor:
    """Return a label map (*S) as int64: whole numbers in a tensor, an array or nested lists."""
    found = _whole(value)
    if found is None or found.ndim < 1 or not found.numel():
        kind = f"{found.dtype} of {tuple(found.shape)}" if found is not None else _kind_of(value)
        raise WrongType(f"{name}: a label map is integers of shape (H, W), got {kind}")
    return found


def classes(name: str, value: Any, most: int | None = None) -> Tensor:
    """Return classes (N, ...), whole numbers from 0, below `most` if that is given."""
    found = tensor(name, value)
    if found.ndim < 1 or found.dtype not in WHOLE:
        raise WrongType(
            f"{name} are whole numbers (N, ...), got {found.dtype} of {tuple(found.shape)}: give classes, as "
            "logits.argmax(1)"
        )
    if not found.numel():
        raise InputError(
            f"{name} of shape {tuple(found.shape)} are of no images: there is nothing to measure"
        )
    low, high = int(found.min()), int(found.max())
    if low < 0 or (most is not None and high >= most):
        known = "0 or more" if most is None else f"0 to {most - 1}"
        raise InputError(
            f"{name} of shape {tuple(found.shape)} go from {low} to {high}, and the model's classes are "
            f"{known}: give labels of this model's classes"
        )
    return found


def target(name: str, value: Any, n_classes: int | None = None) -> list[int] | None:
    """Return the classes to explain of one image: one, or several in a list, tuple or array; None stays."""
    if value is None:
        return None
    items = sequence(name, value) if has_items(value) else [value]
    if not items:
        raise refused(name, value, "give a class or more")
    with contextlib.suppress(WrongType):
        return [_class(name, item, value, n_classes) for item in items]
    raise wrong_type(
        name, value, "give the number or name of a class, a Region, Box, Similarity or function, or several"
    )


def per_image(name: str, value: Any, n_images: int) -> list[Any]:
    """Return one item for each of `n_images`: a single one is that of all of them."""
    if not has_items(value):
        return [value] * n_images
    items = sequence(name, value)
    if len(items) != n_images:
        raise InputError(f"{len(items)} {name} for {n_images} images: give one, or a list, for each")
    return items


def _class(name: str, item: Any, given: Any, n_classes: int | None) -> int:
    """Return the number of a class; how many there are is not known before the model has answered."""
    found = count(name, item, low=-(2**63), high=2**63)
    if n_classes is not None and not 0 <= found < n_classes:
        raise refused(name, given, f"the model has the classes 0 to {n_classes - 1}")
    return found


def has_items(value: Any) -> bool:
    """Whether a value is a list, tuple or array of several, and no single number."""
    with contextlib.suppress(Exception):
        return value.ndim > 0 if hasattr(value, "ndim") else isinstance(value, (list, tuple, range))
    return False


def _whole(value: Any) -> Tensor | None:
    """Return whole numbers as an int64 tensor; None for what holds no whole numbers."""
    with contextlib.suppress(Exception):
        found = tensor("", value if isinstance(value, Tensor) else _from_array(value))
        if found.is_floating_point() or found.is_complex():
            return None
        wrapped = found.dtype is torch.uint64 and bool((found.long() < 0).any())
        return None if wrapped else found.long()
    return None


def _from_array(value: Any) -> Tensor:
    if isinstance(value, (list, tuple)):
        return torch.tensor(value)
    whole = value.astype("int64")  # torch takes no other byte orders, and no negative strides
    if value.dtype.kind not in "iub" or not (whole == value).all():
        raise ValueError("other than whole numbers of 64 bits")
    return torch.from_numpy(whole)


def _kind_of(value: Any) -> str:
    return shown(value) if has(value, "dtype", "shape") else f"a {type(value).__name__}"
