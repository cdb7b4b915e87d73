"""Neighbour padding by a device's compiled kernel: which there is, and the two steps it takes."""

from __future__ import annotations

from types import ModuleType

import torch

from layermask.kernels import triton
from layermask.padding import cpu as fill
from layermask.padding.cpu import KINDS

__all__ = ["KINDS", "NEVER", "kernel"]
NEVER = 255  # in a map of rings: neither to fill from nor to be filled


def kernel(device: torch.device) -> ModuleType | None:
    """The module with `rings` and `fill_` for tensors on the device, if it can run here."""
    if device.type == "cpu":
        return fill if fill.available() else None
    if device.type != "cuda" or not triton.installed():
        return None
    from layermask.kernels.triton import fill as on_gpu

    return on_gpu
