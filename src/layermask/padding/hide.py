"""Writing a number at hidden cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from layermask.core.tracing import is_traced
from layermask.padding import cpu

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped


def hide_(
    value: Shaped[Tensor, "N C *S"], visible: Bool[Tensor, "#N #C *#S"], number: float
) -> Shaped[Tensor, "N C *S"]:
    """Write `number` where `visible` (N or 1, C or 1, *S) is False, in place; `value` is (N, C, *S)."""
    spatial = visible.shape[1] == 1 and visible.shape[2:] == value.shape[2:]
    if spatial and value.is_cpu and value.dtype in cpu.KINDS and not is_traced(value) and cpu.available():
        cpu.hide_(value, visible, number)
        return value
    return value.masked_fill_(~visible, number)
