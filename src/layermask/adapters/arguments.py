"""What adapters ask of a removal operator besides its answers: what it paints, and where its model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.errors import InputError

Removal = Callable[..., Any]


def painter(removal: Removal, instead: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what paints hidden pixels, `(images, visible) -> images`, where the model of the removal is."""
    kinds.removal("removal", removal)
    found: Any = getattr(removal, "painted", None) or getattr(removal, "fill", None)
    if not callable(found):
        raise InputError(
            f"{type(removal).__name__} has no fill(images, visible), so it paints nothing: {instead}"
        )
    paint: Callable[..., Any] = found
    device = device_of(removal)

    @torch.no_grad()
    def painted(images: Tensor, visible: Tensor) -> Tensor:
        return paint(images.to(device), visible.to(device)).to(images.device)

    return painted


def device_of(removal: Removal) -> torch.device:
    """Return where the model of a removal is; a function without parameters is taken to be on the CPU."""
    parameters = removal.parameters() if isinstance(removal, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))
