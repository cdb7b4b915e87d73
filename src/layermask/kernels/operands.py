"""What kernels take: rows with their filled cells, prepared weights, masks and sizes of three axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class RowSource:
    """Numbered rows to read: `rows` (V, C), then `filled` (R, C), the last of which are zeros."""

    rows: Tensor
    filled: Tensor | None = None

    def all(self) -> Tensor:
        return self.rows if self.filled is None else torch.cat([self.rows, self.filled])


@dataclass(eq=False)
class Weights:
    """A convolution's weights as `product` and `depthwise` take them; copies, that keep no model alive.

    `shape`: (groups, then outputs, kernel offsets and channels of each). `values`: in this shape, for a
    depthwise one as (T, C), or for the product in C as (groups, panels, T, C / groups, width).
    """

    shape: tuple[int, int, int, int]
    values: Tensor
    bias: Tensor | None

    @property
    def depthwise(self) -> bool:
        return self.values.ndim == 2


def whole(visible: Tensor, is_padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if is_padding is not None and is_padding.shape[0] > visible.shape[0]:
        visible = visible.expand(is_padding.shape)
    return visible.contiguous(), is_padding if is_padding is None else is_padding.expand(
        -1, *visible.shape[1:]
    ).contiguous()


def three(sizes: Sequence[int], rest: int = 0) -> tuple[int, ...]:
    return (rest,) * (3 - len(sizes)) + tuple(sizes)
