"""Quantus' perturb_func: by a removal that paints, or by NaN for any removal behind `NaNHidden`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.adapters.arguments import Removal, painter
from layermask.arguments import kinds
from layermask.arguments.refusal import wrong_type
from layermask.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def as_perturb_func(removal: Removal, shape: Sequence[int]) -> Callable[..., np.ndarray]:
    """Return a `perturb_func` for Quantus' metrics that paints as `removal.fill` does.

    A pixel is hidden if Quantus names any of its channels. Metrics that flip step by step pass on what
    earlier steps painted, which a fill that looks at its surroundings takes for part of the image;
    `write_nan` has no such effect.

    Args:
        removal: an operator with `fill(images, visible) -> images`, as `Greyout`.
        shape: (C, *S) of one image, which Quantus flattens without saying.

    Raises:
        InputError: a removal that does not paint; when called, arrays that are not of that shape.
    """
    shape = kinds.several("shape", shape, kinds.count, least=2)
    instead = "give Quantus the model NaNHidden(removal) and the metric perturb_func=write_nan"
    paint = painter(removal, instead)

    def perturb_func(arr: np.ndarray, indices: Any = None, mask: Any = None, **unused: Any) -> np.ndarray:
        named = _named(arr, indices, mask)
        images, hidden = (_shaped(x, shape) for x in (torch.as_tensor(arr), named))
        return paint(images, ~hidden.any(1, keepdim=True)).numpy().reshape(arr.shape)

    return perturb_func


def write_nan(arr: np.ndarray, indices: Any = None, mask: Any = None, **unused: Any) -> np.ndarray:
    """Be a `perturb_func` for Quantus' metrics that marks entries as hidden for a `NaNHidden` model.

    `arr` (N, ...) with `indices` (N, I) into its flattened rows or a `mask` that is True where hidden; one
    image with `indices` (I,), as Quantus' ROAD has it.
    """
    return torch.where(_named(arr, indices, mask), torch.nan, _array("arr", arr)).numpy()


def _array(name: str, value: Any) -> Tensor:
    """Return the tensor of an array of numbers."""
    with contextlib.suppress(Exception):
        found = kinds.values(name, torch.as_tensor(value))
        if found.ndim:
            return found
    raise wrong_type(name, value, "give an array of numbers, with an axis or more")


def _named(arr: Any, indices: Any, mask: Any) -> Tensor:
    """Return the bool tensor of the shape of `arr` that is True at what Quantus names."""
    arr = _array("arr", arr)
    if mask is not None:
        named = kinds.mask("mask", _array("mask", mask))
        if any(a not in (1, b) for a, b in zip(named.shape[::-1], arr.shape[::-1], strict=False)):
            raise InputError(
                f"mask is of shape {tuple(named.shape)} for arr {tuple(arr.shape)}: give its own"
            )
        return named.expand(arr.shape)
    indices = kinds.label_map("indices", indices)
    rows = indices.shape[:-1]
    length = arr.numel() // max(1, rows.numel())
    low, high = int(indices.min()), int(indices.max())
    if length * rows.numel() != arr.numel() or low < 0 or high >= length:
        raise InputError(
            f"indices of shape {tuple(indices.shape)} go from {low} to {high} for "
            f"arr {tuple(arr.shape)}: give (N, I) into its flattened rows, or (I,) for one image"
        )
    named = torch.zeros(*rows, length, dtype=torch.bool)
    return named.scatter(-1, indices, True).view(arr.shape)


def _shaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    try:
        return x.reshape(-1, *shape) if x.shape[-len(shape) :] == (*shape,) else x.reshape(len(x), *shape)
    except RuntimeError:
        raise InputError(
            f"Quantus passed an array of {tuple(x.shape)} for images {tuple(shape)}: a patch_size that does "
            "not divide the image pads it; choose one that does, or use write_nan"
        ) from None
