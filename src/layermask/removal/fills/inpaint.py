"""Inpainting by OpenCV: Telea's fast marching, or Navier-Stokes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.kinds import Color, PositiveColor
from layermask.errors import import_optional
from layermask.removal.fills.protocol import Fill, colour, draw
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Inpainted(Fill):
    """Hidden pixels are inpainted by OpenCV, picture by picture on the CPU; 0 if nothing is visible.

    `method`: "telea" (Telea 2004) or "ns" (Bertalmio et al. 2001). `radius`: of what each pixel is computed
    from, in pixels. `mean`, `std`: of the normalisation, as OpenCV wants 8-bit colours. No gradient passes.
    """

    method: Literal["telea", "ns"] = "telea"
    radius: Annotated[float, partial(kinds.number, above=0, below=1000)] = 3.0
    mean: Color = IMAGENET_MEAN
    std: PositiveColor = IMAGENET_STD
    dims: ClassVar = (2,)
    differentiable: ClassVar = False
    extra: ClassVar = "inpaint"
    exports: ClassVar = False  # OpenCV paints

    def __post_init__(self) -> None:
        import_optional("cv2", self.extra)
        super().__post_init__()

    @torch.no_grad()
    def paint(self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"]) -> Tensor:
        mean, std = colour("mean", self.mean, images), colour("std", self.std, images)
        pixels = (images * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        holes = (~visible).to(torch.uint8).cpu().numpy().repeat(len(pixels) // len(visible), 0)
        rows = [self._one(picture, hole[0]) for picture, hole in zip(pixels, holes, strict=True)]
        filled = torch.stack(rows).to(images.device, images.dtype).div(255)
        return torch.where(visible.flatten(1).any(1).view(-1, 1, 1, 1), (filled - mean) / std, 0.0)

    def _one(self, picture: Any, hole: Any) -> Tensor:
        """Inpaint (C, H, W) uint8 where (H, W) is 1, each channel for itself, as OpenCV does too."""
        cv2 = import_optional("cv2", self.extra)
        flag = cv2.INPAINT_TELEA if self.method == "telea" else cv2.INPAINT_NS
        return torch.stack([torch.from_numpy(cv2.inpaint(each, hole, self.radius, flag)) for each in picture])


if __name__ == "__main__":
    draw("inpaint", telea=Inpainted("telea"), ns=Inpainted("ns"))
