"""The fill as two operators that a compiler calls and does not look into: box sums it compiles are slow."""

from __future__ import annotations

import torch
from torch import Tensor

from .native import filling
from .window import box_sum, count, neighborhood


def wanted() -> bool:
    """Whether what is compiled stays here: an exported program is to need nothing of this library."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


@torch.library.custom_op("layermask::rings", mutates_args=())
def rings(visible: Tensor, frame: Tensor | None, reach: list[int]) -> Tensor:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    kernel = filling.kernel(visible.device)
    return (kernel.rings if kernel else _rings)(visible, frame, reach)


@rings.register_fake
def _(visible: Tensor, frame: Tensor | None, reach: list[int]) -> Tensor:
    shape = visible if frame is None else visible & frame
    return torch.empty_like(shape, dtype=torch.uint8, memory_format=torch.contiguous_format)


@torch.library.custom_op("layermask::fill_", mutates_args={"value"}, tags=(torch.Tag.flexible_layout,))
def fill_(value: Tensor, rings: Tensor, reach: list[int], eps: float) -> None:
    """Fill `value` (N, C, *S) in place by its map of rings; `eps` is added to the number of neighbours."""
    kernel = filling.kernel(value.device)
    (kernel.fill_ if kernel and value.dtype in filling.KINDS else _fill_)(value, rings, reach, eps)


def _rings(visible: Tensor, frame: Tensor | None, reach: list[int]) -> Tensor:
    known = visible if frame is None else visible & ~frame
    out = torch.where(known, 0, filling.NEVER)
    for ring in range(1, max(reach) + 1):
        cells = ~visible & ~known & (count(known, neighborhood(tuple(reach), ring)) > 0)
        out, known = torch.where(cells, ring, out), known | cells
    return out.to(torch.uint8)


def _fill_(value: Tensor, rings: Tensor, reach: list[int], eps: float) -> None:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    sums = torch.where(rings == 0, wide, 0.0)
    for ring in range(1, max(reach) + 1):
        box = neighborhood(tuple(reach), ring)
        known = count(rings < ring, box).clamp(min=1).to(sums.dtype) + eps
        sums = torch.where(rings == ring, box_sum(sums, box) / known, sums)
    value.copy_(torch.where((rings > 0) & (rings != filling.NEVER), sums, wide))
