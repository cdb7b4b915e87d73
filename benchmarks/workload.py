"""What is timed in a cell: one model, its images, and every side as `side(visible)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from cells import Cell
from masks import MASKS, SIZE
from models import build
from published import Published
from torch import Tensor, nn

from layermask import LayerMasking
from layermask.removal import Greyout

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Plain(nn.Module):
    """The model itself, whatever is visible."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        return self.model(images)


SIDES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": Plain,
    "grey fill": Greyout,
    "dense": lambda model: LayerMasking(model, engine="dense"),
    "sparse": lambda model: LayerMasking(model, engine="sparse"),
    "auto": lambda model: LayerMasking(model, engine="auto"),
    "published": Published,
}
"""`removal(images, visible)` of a model. The last is written for ResNets alone."""
UNCOMPILED = "sparse, eager"
"""A side of compiled cells: the sparse engine as it is, as its rows are not of one number."""


class Workload:
    """The model of a cell in its dtype and memory format, and images of random numbers."""

    def __init__(self, cell: Cell) -> None:
        torch.manual_seed(0)
        self.cell = cell
        place = {"device": cell.device, "dtype": getattr(torch, cell.dtype)}
        self.model = build(cell.model).to(**place, memory_format=LAYOUTS[cell.layout])
        self.images = torch.randn(cell.batch, 3, SIZE, SIZE).to(**place, memory_format=LAYOUTS[cell.layout])

    def masks(self, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return MASKS[self.cell.mask](self.cell.batch, self.cell.hidden, draw).to(self.cell.device)

    def names(self) -> Iterator[str]:
        yield from (name for name in SIDES if name != "published" or self.cell.model == "resnet50")
        if self.cell.mode == "compile":
            yield UNCOMPILED

    def side(self, name: str) -> Callable[[Tensor], Tensor]:
        removal = SIDES["sparse" if name == UNCOMPILED else name](self.model)
        if self.cell.mode == "compile" and name != UNCOMPILED:
            removal = torch.compile(removal)
        return lambda visible: removal(self.images[: len(visible)], visible)
