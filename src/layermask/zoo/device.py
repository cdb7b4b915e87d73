"""Devices by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.errors import InputError
from layermask.io.atomic import reason

if TYPE_CHECKING:
    import torch


def torch_device(name: str) -> torch.device:
    """Return a device that pictures can go to and answers come back from."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1).cpu()
    except Exception as error:  # of a device that is not there, torch raises what its module does
        raise InputError(
            f"device {name!r} is not there: {reason(error)}; give --device auto or cpu"
        ) from error
    return device
