"""The compiled fill of a device."""

from __future__ import annotations

from types import ModuleType

import torch

from layermask.kernels import triton
from layermask.padding import cpu


def compiled_fill(device: torch.device) -> ModuleType | None:
    """The module with `rings` and `fill_` for tensors on the device, if it can run here."""
    if device.type == "cpu":
        return cpu if cpu.available() else None
    if device.type != "cuda" or not triton.installed():
        return None
    from layermask.kernels.triton import fill as on_gpu

    return on_gpu
