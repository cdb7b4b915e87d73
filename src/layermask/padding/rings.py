"""The rings of hidden cells around the visible part, and what each of their cells reads."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import cached
from layermask.core.masked import Masked, settings_of
from layermask.core.window import Window, count, neighborhood

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt8

NEVER = 255  # in a map of rings: neither to fill from nor to be filled
EPSILON: dict[str | None, float] = {"paper": 1e-8, "release": 1e-5, None: 0.0}
"""Added to the neighbour count by the paper's algorithm and by its released code; by default nothing is."""


Round = tuple[Window, Tensor, Tensor, Tensor]
"""Of one ring: the neighbourhood, the known cells, the count of known neighbours, the cells to fill."""


def rounds(
    visible: Bool[Tensor, "#N #C *S"], is_padding: Bool[Tensor, "#N #C *S"] | None, reach: tuple[int, ...]
) -> list[Round]:
    """Return the rings in order. Padding, which is visible, is nothing to fill from; masks are (N, C, *S)."""
    found, known = [], visible if is_padding is None else visible & ~is_padding
    open_cells = ~visible
    for ring in range(1, max(reach) + 1):
        box = neighborhood(reach, ring)
        near = count(known, box)
        cells = open_cells & (near > 0)
        found.append((box, known, near, cells))
        known, open_cells = known | cells, open_cells & ~cells
    return found


def rounds_of(x: Masked, reach: tuple[int, ...]) -> list[Round]:
    """The same of a pair, made once per mask."""
    return cached(x.forward_pass, "rings", masks_of(x), reach, lambda: rounds(x.visible, x.is_padding, reach))


def ring_map(
    visible: Bool[Tensor, "#N #C *S"], is_padding: Bool[Tensor, "#N #C *S"] | None, reach: tuple[int, ...]
) -> UInt8[Tensor, "N C *S"]:
    """Return each cell's ring, uint8: 0 = to fill from, r = filled in round r, NEVER = neither."""
    out = torch.where(visible if is_padding is None else visible & ~is_padding, 0, NEVER)
    for ring, (_, _, _, cells) in enumerate(rounds(visible, is_padding, reach), 1):
        out = torch.where(cells, ring, out)
    return out.to(torch.uint8)


def rounds_in(rings: Tensor, reach: tuple[int, ...]) -> Iterator[Round]:
    """Read the rings off a map of them."""
    for ring in range(1, max(reach) + 1):
        box, known = neighborhood(reach, ring), rings < ring
        yield box, known, count(known, box), rings == ring


def masks_of(x: Masked) -> tuple[Tensor, ...]:
    return (x.visible,) if x.is_padding is None else (x.visible, x.is_padding)


def epsilon(x: Masked) -> float:
    return EPSILON[settings_of(x).compat]


def map_of(
    forward_pass: ForwardPass | None,
    visible: Tensor,
    is_padding: Tensor | None,
    reach: tuple[int, ...],
    kernel: ModuleType | None,
) -> Tensor:
    """The map of rings, made once per mask of a pass, by a module with `rings` if one is given."""
    make = kernel.rings if kernel else ring_map
    masks = (visible,) if is_padding is None else (visible, is_padding)
    return cached(forward_pass, "ring map", masks, reach, lambda: make(visible, is_padding, reach))


def earlier(
    rings: UInt8[Tensor, " N *S"], cells: Int[Tensor, " R"], ring: int, reach: tuple[int, ...]
) -> tuple[Int[Tensor, "R K"], Bool[Tensor, "R K"]]:
    """The neighbourhood (R, 3^d) of each of the `cells` of a ring, and which of it the ring is filled from.

    Cells are numbered over the map `rings` (N, *S).
    """
    stride, steps, inside = 1, cells.new_zeros(1), cells.new_ones((len(cells), 1), dtype=torch.bool)
    for size, on in zip(reversed(rings.shape[1:]), reversed(neighborhood(reach, ring).before), strict=True):
        step = torch.arange(-on, on + 1, device=cells.device)
        place = (cells // stride % size)[:, None] + step
        steps = (step[:, None] * stride + steps).flatten()
        inside = (((place >= 0) & (place < size))[:, :, None] & inside[:, None]).flatten(1)
        stride *= size
    around = (cells[:, None] + steps).clamp_(0, rings.numel() - 1)
    return around, inside & (rings.flatten()[around] < ring)
