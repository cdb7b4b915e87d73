"""What every adapter asks of a removal operator: one plain tensor of class scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layermask.errors import InputError
from layermask.explain.asking import Output, asker

Removal = Callable[..., Any]


def answer(removal: Removal, images: Tensor, visible: Tensor, output: Output = "logit") -> Tensor:
    """Return the (N, K) scores for visible (N, 1, *S); one image is shared by all masks, without copies."""
    return asker(removal, output)(images.expand(len(visible), *images.shape[1:]), visible)


def check_output(output: str) -> None:
    if output not in ("logit", "probability"):
        raise InputError(f'output is {output!r}: choose "logit" or "probability"')


def check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim < 3 or not images.is_floating_point():
        kind = (
            f"{images.dtype} of {tuple(images.shape)}" if isinstance(images, Tensor) else repr(type(images))
        )
        raise InputError(f"images are a float tensor (N, C, *S), got {kind}")


def painter(removal: Removal, instead: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what paints hidden pixels, `(images, visible) -> images`, where the model of the removal is."""
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
