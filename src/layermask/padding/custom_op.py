"""The fill as two operators that a compiler calls and does not look into: box sums it compiles are slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.kernels.operators import define
from layermask.kernels.signatures import KINDS
from layermask.padding.devices import compiled_fill
from layermask.padding.reference import filled
from layermask.padding.rings import NEVER, ring_map, rounds_in

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped, UInt8


def wanted() -> bool:
    """Whether what is compiled stays here: an exported program is to need nothing of this library."""
    return _TELLS and torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


_TELLS = hasattr(torch.compiler, "is_exporting")  # torch 2.6 does not tell an export from a compilation


def _call_rings(visible: Tensor, is_padding: Tensor | None, reach: Sequence[int]) -> Tensor:
    kernel = compiled_fill(visible.device)
    return (kernel.rings if kernel else _rings)(visible, is_padding, reach)


def _shape_rings(visible: Tensor, is_padding: Tensor | None, reach: Sequence[int]) -> Tensor:
    shape = visible if is_padding is None else visible & is_padding
    return torch.empty_like(shape, dtype=torch.uint8, memory_format=torch.contiguous_format)


def _call_fill(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    kernel = compiled_fill(value.device)
    (kernel.fill_ if kernel and value.dtype in KINDS else _fill_)(value, rings, reach, eps)


def _shape_fill(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    return None


_ANY = "CompositeExplicitAutograd"
define(
    "rings", "(Tensor visible, Tensor? is_padding, int[] reach) -> Tensor", _ANY, _call_rings, _shape_rings
)
define(
    "fill_",
    "(Tensor(a!) value, Tensor rings, int[] reach, float eps) -> ()",
    _ANY,
    _call_fill,
    _shape_fill,
    (torch.Tag.flexible_layout,),  # a value is filled as it lies
)


def rings(
    visible: Bool[Tensor, "#N 1 *S"], is_padding: Bool[Tensor, "#N 1 *S"] | None, reach: Sequence[int]
) -> UInt8[Tensor, "N 1 *S"]:
    """Each cell's ring: 0 = to fill from, r = filled in round r, 255 = neither. Masks are (N or 1, 1, *S)."""
    return torch.ops.layermask.rings(visible, is_padding, reach)


def fill_(
    value: Shaped[Tensor, "N C *S"], rings: UInt8[Tensor, "#N 1 *S"], reach: Sequence[int], eps: float
) -> None:
    """Fill `value` (N, C, *S) in place by its map of rings; `eps` is added to the number of neighbours."""
    torch.ops.layermask.fill_(value, rings, reach, eps)


def _rings(visible: Tensor, is_padding: Tensor | None, reach: Sequence[int]) -> Tensor:
    return ring_map(visible, is_padding, tuple(reach))


def _fill_(value: Tensor, rings: Tensor, reach: Sequence[int], eps: float) -> None:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    known = torch.where(rings == 0, wide, 0.0)
    out = filled(known, rounds_in(rings, tuple(reach)), eps)
    value.copy_(torch.where((rings > 0) & (rings != NEVER), out, wide))
