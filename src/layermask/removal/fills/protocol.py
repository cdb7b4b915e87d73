"""What every built-in fill shares: which pixels it may read, and that visible pixels stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from layermask._private_torch import is_readable
from layermask.arguments.declare import Checked
from layermask.arguments.refusal import shown
from layermask.core.inputs import check_inputs
from layermask.errors import InputError
from layermask.io import demo
from layermask.io.pixels import checkered
from layermask.removal.fills.select import select
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

NARROW = (torch.float16, torch.bfloat16)  # painted in float32: sums over many pixels overflow, or round


class Fill(Checked, ABC):
    """`fill(images, visible) -> images` from `paint`, which says what hidden pixels become.

    `reads`: "visible" hands `paint` images whose hidden pixels are 0, so that what they held, be it NaN,
    cannot matter. "all" hands it the images themselves, "nothing" too, for paint that looks at shapes alone.
    `dims`: the numbers of spatial dims that it is defined for; none means any. `differentiable`: the gradient
    on visible pixels is that of the whole, paint included. `extra`: the extra of layermask that it needs.
    `exports`: it becomes a graph of torch operations for any batch size, for `layermask.deploy`.
    """

    reads: ClassVar[Literal["nothing", "visible", "all"]] = "visible"
    dims: ClassVar[tuple[int, ...]] = ()
    differentiable: ClassVar[bool] = True
    extra: ClassVar[str] = ""
    exports: ClassVar[bool] = True

    def __call__(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"]
    ) -> Float[Tensor, "_ C *S"]:
        """Return images (N, C, *S) painted where visible (N, 1, *S) is False; either batch may be 1.

        Raises:
            TypeError, ValueError: as `LayerMasking.forward`.
            InputError: images that this fill cannot paint; the message says why.
        """
        visible = check_inputs(images, visible)
        self._check(images)
        seen = select(visible, images, images.new_zeros(())) if self.reads == "visible" else images
        with torch.autocast(images.device.type, enabled=False):
            paint = self.paint(seen.float() if images.dtype in NARROW else seen, visible)
        return select(visible, images, paint.to(images.dtype))

    @abstractmethod
    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        """Return what broadcasts to (N, C, *S): the colours of hidden pixels, and anything elsewhere."""

    def _check(self, images: Tensor) -> None:
        if self.dims and images.ndim - 2 not in self.dims:
            raise InputError(
                f"{self} fills pictures (N, C, H, W), not images of shape {tuple(images.shape)}: "
                "choose another fill"
            )
        _check_range(self, images)
        if self.reads == "all" and is_readable(images) and not images.isfinite().all():
            raise InputError(
                f"{self} reads hidden pixels too, and these images of shape {tuple(images.shape)} hold NaN "
                "or inf: replace those values, or choose a fill that reads visible pixels only"
            )


def _check_range(fill: Fill, images: Tensor) -> None:
    """Refuse a colour that the dtype of the images cannot hold."""
    color, most = getattr(fill, "color", (0.0,)), torch.finfo(images.dtype).max
    if max(map(abs, color)) > most:
        origin = getattr(fill, "origin", "color")
        raise InputError(
            f"{origin}: a colour {shown(color)} for images of {images.dtype}, whose numbers "
            f"end at {most:g}: give smaller ones, or images of float32"
        )


def colour(name: str, values: tuple[float, ...], images: Tensor) -> Tensor:
    """Return one colour as (1, C, 1, ..., 1), of the images' dtype and device; one number is for all C.

    `name`: the argument that the values come from, for the error.
    """
    if len(values) not in (1, images.shape[1]):
        raise InputError(
            f"{name}: a colour of {len(values)} channels, {values}, for images of shape "
            f"{tuple(images.shape)}: give {name} with {images.shape[1]} values, or one"
        )
    return images.new_tensor(values).view(1, -1, *[1] * (images.ndim - 2))


def draw(name: str, **fills: Fill) -> None:
    """Draw what fills make of the bundled photograph; each module of fills does, run by `python -m`."""
    x, visible = demo.photograph(), demo.holes()
    mean, std = (x.new_tensor(scale).view(1, 3, 1, 1) for scale in (IMAGENET_MEAN, IMAGENET_STD))
    painted = {each: fill((x - mean) / std, visible) * std + mean for each, fill in fills.items()}
    sheet = {"hidden": checkered(demo.pixels(x), visible[0, 0])}
    demo.draw(name, sheet | {each: demo.pixels(y) for each, y in painted.items()})
