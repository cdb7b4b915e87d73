"""What a mutant does to what a function returns; copied into the mutated package as `layermask._broken`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def output(out: Any) -> Any:
    """One percent too much, of numbers; the next cell's, of masks and indices."""
    if isinstance(out, tuple | list) and out:
        return _rebuilt(out, (output(out[0]), *out[1:]))
    if _is_masked(out):
        out.value = output(out.value)
        return out
    return _wrong(out) if isinstance(out, Tensor) else out


def mask(out: Any) -> Any:
    """A mask that lies one cell further, or says the contrary where it has one cell."""
    if isinstance(out, tuple | list) and out:
        return _rebuilt(out, (mask(out[0]), *out[1:]))
    if _is_masked(out):
        out.visible = moved(out.visible)
    return out


def can_break(out: Any, how: str) -> bool:
    """Whether what a function returned has a mask, or numbers, that can be made wrong."""
    first = out[0] if isinstance(out, tuple | list) and out else out
    return _is_masked(first) or (how == "output" and isinstance(first, Tensor))


def moved(visible: Tensor) -> Tensor:
    axes = [axis for axis, size in enumerate(visible.shape) if size > 1]
    return visible.roll(1, axes[-1]) if axes else ~visible


def _wrong(x: Tensor) -> Tensor:
    if x.is_floating_point() or x.is_complex():
        return x * 1.01
    if x.dtype is torch.bool:
        return moved(x)
    return x.roll(1) if x.numel() > 1 else x + 1


def _is_masked(x: Any) -> bool:
    return hasattr(x, "visible") and hasattr(x, "value") and hasattr(x, "run")


def _rebuilt(old: Any, items: tuple) -> Any:
    return type(old)(*items) if hasattr(old, "_fields") else type(old)(items)
