"""What every removal operator checks of the images and masks that it is given."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from layermask._private_torch import is_readable
from layermask.arguments import kinds
from layermask.core.call_site import raised_at
from layermask.core.mask import narrow
from layermask.core.masked import Masked
from layermask.core.refuse import GIVE_THE_MODULE
from layermask.errors import InputError, NoMaskRule, WrongType


def check_inputs(images: Tensor, visible: Tensor, channel_axis: int = 1) -> Tensor:
    """`visible` as bool, after checking that it and the images fit; see `LayerMasking.forward`."""
    for name, given in (("images", images), ("visible", visible)):
        kinds.tensor(name, given)
        if isinstance(given, Masked):
            raise WrongType(f"{name} must be a plain torch.Tensor, not Masked: a removal within another one")
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point (normalised as the model expects), not {images.dtype}."
        )
    _check_shapes(*(_channels_first(tuple(each.shape), channel_axis) for each in (images, visible)))
    if images.device != visible.device:
        raise ValueError(
            f"images are on {images.device} and visible is on {visible.device}: move one to the other."
        )
    visible = kinds.mask("visible", visible)
    if is_readable(images) and _has_visible_nan(images, visible):
        raise ValueError(
            "images hold NaN in visible pixels: hide those pixels, or repair the images. Explainers and "
            'metrics hide them by valid="nan", NaNHidden(removal) does elsewhere.'
        )
    return visible


def check_each(images: Any, visible: Any) -> list[tuple[Tensor, Tensor]]:
    """Each image of a list, (1, C, H, W), with its mask, (1, 1, H, W), after the same checks.

    Raises:
        InputError: there is not one mask per image, or there are none.
    """
    if not isinstance(visible, (list, tuple)) or len(visible) != len(images) or not images:
        raise InputError(
            f"visible must be a list of {len(images)} masks (1, H, W), one for each of the images of the list"
        )
    pairs = [
        (kinds.tensor("images", x)[None], kinds.tensor("visible", m)[None])
        for x, m in zip(images, visible, strict=True)
    ]
    return [(x, check_inputs(x, m)) for x, m in pairs]


def _has_visible_nan(images: Tensor, visible: Tensor) -> bool:
    return _free_of_nan.get() is not images and holds_nan(images) and bool((images.isnan() & visible).any())


def holds_nan(images: Tensor) -> bool:
    """Whether any pixel is NaN, hidden or not. To look is to wait for the device, once if there is none."""
    each = narrow(images.detach())  # one image under many masks is read once
    total = each.sum(
        dtype=torch.promote_types(each.dtype, torch.float32)
    )  # a NaN stays; infinite: look again
    return not bool(total.isfinite()) and bool(each.isnan().any())


_free_of_nan: ContextVar[Tensor | None] = ContextVar("images that hold no NaN", default=None)


class OneQuery:
    """A query asks about the same images many times: they are looked at for NaN in its first batch."""

    def __init__(self) -> None:
        self._clean: Tensor | None = None

    @contextlib.contextmanager
    def about(self, images: Tensor) -> Iterator[None]:
        """Within the block, removal operators need not look at these very images again."""
        if images is not self._clean:
            self._clean = None if holds_nan(images) else images
        token = _free_of_nan.set(self._clean)
        try:
            yield
        finally:
            _free_of_nan.reset(token)


def channel_axis_of(images: Any, visible: Any) -> int:
    """Return the axis of the channels: 2 for videos (N, T, C, H, W), which a mask (M, T, 1, H, W) tells."""
    if not (isinstance(images, Tensor) and isinstance(visible, Tensor)):
        return 1  # which is refused with its own words
    videos = images.ndim == visible.ndim == 5
    return 2 if videos and images.shape[2] != visible.shape[2] == 1 else 1


def _channels_first(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape if axis == 1 else (shape[0], shape[axis], *shape[1:axis], *shape[axis + 1 :])


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


def answered(model: nn.Module, x: Any, images: Tensor, args: tuple, kwargs: dict) -> Any:
    """Return the model's answer to `x`, which stands for `images`; name channels that it does not take."""
    if torch.compiler.is_compiling():
        return model(x, *args, **kwargs)
    try:
        return model(x, *args, **kwargs)
    except TypeError as error:
        if taken := _WANTS_A_NUMBER.match(str(error)):
            raise NoMaskRule(taken[1], *raised_at(error), _NO_NUMBER, _NUMBERS) from error
        raise
    except RuntimeError as error:
        if type(error) is RuntimeError and "TorchScript interpreter" in str(error):
            raise NoMaskRule("a scripted function", advice=GIVE_THE_MODULE) from error
        first = next((m for m in model.modules() if isinstance(m, _CONVOLUTIONS)), None)
        refused = f"but got {images.shape[1]} channels" in str(error)  # what torch says of a convolution
        if not refused or first is None or first.in_channels == images.shape[1]:
            raise
        raise InputError(
            f"images of shape {tuple(images.shape)} have {images.shape[1]} channels, and the first "
            f"convolution of the model takes {first.in_channels}: {_advice(images, first.in_channels)}"
        ) from error


def _advice(images: Tensor, channels: int) -> str:
    if images.shape[-1] != channels:
        return "give images as the model expects them"
    last = images.ndim - 1
    order = ", ".join(map(str, (0, last, *range(1, last))))
    return f"the channels seem to stand last, give images.permute({order})"


_WANTS_A_NUMBER = re.compile(r"(\w+)\(\)(?: received|: argument).*\bMaskedTensor", re.DOTALL)
"""What torch says of a call that reads numbers only, as `torch.full`; it does not ask for a rule then."""
_NO_NUMBER = "It takes numbers, and a masked value is none."
_NUMBERS = "Use what takes tensors, as torch.ones(...) * x or torch.where."
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
