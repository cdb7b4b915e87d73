"""What every removal operator checks of the images and masks that it is given."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from ..inplace import is_watched


def check_inputs(images: Tensor, visible: Tensor) -> Tensor:
    """`visible` as bool, after checking that it and the images fit; see `LayerMasking.forward`."""
    for name, x in (("images", images), ("visible", visible)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, not {type(x).__name__}.")
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point (normalised as the model expects), not {images.dtype}."
        )
    _check_shapes(tuple(images.shape), tuple(visible.shape))
    if images.device != visible.device:
        raise ValueError(
            f"images are on {images.device} and visible is on {visible.device}: move one to the other."
        )
    visible = _as_bool(visible)
    if not torch.compiler.is_compiling() and _has_visible_nan(images, visible):
        raise ValueError("images hold NaN in visible pixels: hide those pixels, or repair the images.")
    return visible


def _has_visible_nan(images: Tensor, visible: Tensor) -> bool:
    """To look is to wait for the device: images are looked at anew only where torch knows of a change."""
    global _clean
    changes_show = not images.is_inference() and not is_watched(images)
    state = (images._version, images.data_ptr()) if changes_show else None
    known, known_state = _clean
    if state is not None and known() is images and known_state == state:
        return False
    nan = images.isnan()  # first without the masks: there may be many to one image
    if bool(nan.any()):
        return bool((nan & visible).any())
    _clean = (weakref.ref(images), state)
    return False


_clean: tuple = (lambda: None, None)
"""The images last found to hold no NaN, and the state that they were in."""


def _check_shapes(images: tuple[int, ...], visible: tuple[int, ...]) -> None:
    if len(images) < 3:
        raise ValueError(f"images must be (N, C, *S), as (1, 3, 224, 224), not of shape {images}.")
    if 0 in images:
        raise ValueError(f"images of shape {images} hold no entries.")
    if len(visible) != len(images) or visible[1] != 1:
        raise ValueError(f"{_wanted(images)}, not of shape {visible}.")
    if visible[2:] != images[2:]:
        raise ValueError(
            f"{_wanted(images)}, not of shape {visible}: resize masks by nearest neighbour only."
        )
    if 1 not in (images[0], visible[0]) and images[0] != visible[0]:
        pair = f"{visible[0]} masks do not pair with {images[0]} images"
        raise ValueError(f"{_wanted(images)}, not of shape {visible}: {pair}.")


def _wanted(images: tuple[int, ...]) -> str:
    return f"visible must be (N or 1, 1, *S), here ({images[0]} or 1, 1, {', '.join(map(str, images[2:]))})"


def _as_bool(visible: Tensor) -> Tensor:
    if visible.dtype is torch.bool:
        return visible
    if visible.is_complex():
        raise TypeError(f"visible must be bool, not {visible.dtype}.")
    odd = (visible != 0) & (visible != 1)
    if not torch.compiler.is_compiling() and bool(odd.any()):
        raise ValueError(
            f"visible of dtype {visible.dtype} holds {int(odd.sum())} values other than 0 and 1 (the first "
            f"is {visible[odd][0].item():g}): threshold it, or resize by nearest neighbour, not bilinearly."
        )
    return visible != 0
