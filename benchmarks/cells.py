"""The grid of the forward benchmark: which of its cells are measured, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

EVERY_MODEL = ("resnet50", "convnext_tiny", "mobilenet_v2", "densenet121", "efficientnet_lite0", "vit_small")
EVERY_MASK = ("patches", "block")


@dataclass(frozen=True)
class Cell:
    """One row: all sides are timed on it, taking turns in one process. `hidden` is a share of the pixels."""

    device: str
    model: str
    mask: str
    hidden: float
    dtype: str
    batch: int
    mode: str
    layout: str

    @property
    def name(self) -> str:
        parts = (self.device, self.model, f"{self.mask}-{self.hidden:.0%}", self.dtype, f"b{self.batch}")
        return "/".join([*parts, self.mode, self.layout])


@dataclass(frozen=True)
class Slice:
    """A part of the grid that makes one table of the page: all combinations of what it lists."""

    title: str
    models: tuple[str, ...] = ("resnet50",)
    masks: tuple[str, ...] = ("patches",)
    hidden: tuple[float, ...] = (0.5, 0.75)
    sizes: tuple[tuple[str, int], ...] = (("float32", 16),)  # dtype and batch
    modes: tuple[str, ...] = ("eager",)
    layouts: tuple[str, ...] = ("contiguous",)

    def cells(self, device: str) -> Iterator[Cell]:
        axes = (self.modes, self.sizes, self.layouts, self.models, self.masks, self.hidden)
        for mode, (dtype, batch), layout, model, mask, hidden in product(*axes):
            yield Cell(device, model, mask, hidden, dtype, batch, mode, layout)


LAYOUTS, MODES = ("contiguous", "channels_last"), ("eager", "compile")
HALF, LARGE = (("bfloat16", 256),), (("bfloat16", 256), ("float32", 128))

# The whole grid takes days on two cores. The most important first; a cell of several slices is measured once.
GRID: dict[str, tuple[Slice, ...]] = {
    "cpu": (
        Slice("ResNet-50", modes=MODES, layouts=LAYOUTS),
        Slice("Every model and mask", EVERY_MODEL, EVERY_MASK, (0.25, 0.5, 0.75)),
        Slice("From all to little visible", masks=EVERY_MASK, hidden=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)),
        Slice("Channels last", EVERY_MODEL, layouts=("channels_last",)),
        Slice("One picture, and many", EVERY_MODEL, sizes=(("float32", 1), ("float32", 64))),
        Slice("bfloat16", EVERY_MODEL, sizes=(("bfloat16", 16),)),
        Slice("Compiled", EVERY_MODEL, modes=("compile",)),
    ),
    "cuda": (
        Slice("ResNet-50", sizes=LARGE, modes=MODES, layouts=("channels_last",)),
        Slice(
            "Every model and mask",
            EVERY_MODEL,
            EVERY_MASK,
            (0.25, 0.5, 0.75),
            sizes=HALF,
            layouts=("channels_last",),
        ),
        Slice(
            "From all to little visible",
            masks=EVERY_MASK,
            hidden=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
            sizes=HALF,
            layouts=("channels_last",),
        ),
        Slice("Compiled", EVERY_MODEL, sizes=HALF, modes=("compile",), layouts=("channels_last",)),
        Slice("float32", EVERY_MODEL, sizes=(("float32", 128),), layouts=("channels_last",)),
        Slice("Contiguous", EVERY_MODEL, sizes=HALF),
    ),
}


def cells(device: str) -> list[Cell]:
    """Every cell of the device's slices, once, the most important first."""
    return list(dict.fromkeys(cell for part in GRID[device] for cell in part.cells(device)))
