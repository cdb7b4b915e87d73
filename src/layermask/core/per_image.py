"""Values without positions, as the vectors of images: any operation may pass.

Their masks are all or nothing for each image. The value of a hidden image is determined (what pools and
biases gave it) or read as zero, so nothing hidden reaches a visible entry, whatever the operation does. The
result has the mask of its images, which asks that they stay along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.call_site import module_path, user_line
from layermask.core.masked import Masked, has_positions, masked_in, replace_masked, zero_undetermined
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule

_SPACES = (torch, F, torch.linalg, torch.special, torch.fft)


def may_pass(function: Callable, inputs: list[Masked]) -> bool:
    """Whether every mask has one entry per image, or one in all, and the function is one of torch's own.

    Other methods of tensors have effects (`backward`) or leave torch (`numpy`).
    """
    counts = {x.visible.numel() for x in inputs} - {1}
    name = getattr(function, "__name__", "__").removeprefix("linalg_")
    numbers = any(x.ndim == 0 for x in inputs)  # which functions take for sizes and the like
    if numbers or len(counts) > 1 or name.startswith("__"):
        return False
    if not any(hasattr(space, name) for space in _SPACES):
        return False
    return all(x.visible.numel() == 1 or _per_image(x) for x in inputs)


def _per_image(x: Masked) -> bool:
    return x.visible.shape[0] == x.visible.numel() and not has_positions(x)


def passed(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """What the function gives, each tensor with the mask of the images.

    Raises:
        NoMaskRule: the result has no axis of images in front, or is no tensor.
    """
    shown = None
    for x in masked_in(args, kwargs):
        mask = x.visible.reshape(-1)
        shown = mask if shown is None else shown & mask
    args, kwargs = replace_masked(args, _readable), replace_masked(kwargs, _readable)
    return _paired(function, function(*args, **kwargs), shown)


def _readable(x: Masked) -> Tensor:
    return zero_undetermined(x, ())


def _paired(function: Callable, out: Any, shown: Any) -> Any:
    if isinstance(out, tuple | list):
        return type(out)([_paired(function, part, shown) for part in out])
    if not isinstance(out, Tensor) or (len(shown) > 1 and (not out.ndim or len(out) != len(shown))):
        why = "Its result is not one tensor per image."
        raise NoMaskRule(name_of(function), module_path(), user_line(), why)
    return Masked(out, shown.reshape(shown.shape[:1] + (1,) * (out.ndim - 1) if out.ndim else ()))
