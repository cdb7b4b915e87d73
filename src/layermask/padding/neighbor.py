"""Neighbour padding (the paper's Algorithm 1): hidden cells near the visible part, filled ring by ring.

The r-th ring of hidden cells takes the mean of its neighbours (up to 3^d - 1) that are visible or in an
earlier ring. A window that holds a visible cell reads no further than `reach` cells from it, so `reach`
rings give the same windows, bit for bit, as the paper's k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.core.masked import Masked, zero_hidden, zero_hidden_pair
from layermask.core.ownership import exclusively_owned
from layermask.core.tracing import is_traced
from layermask.core.window import MOST_SLICED_CHANNELS
from layermask.kernels.signatures import KINDS
from layermask.padding import custom_op
from layermask.padding.devices import compiled_fill
from layermask.padding.reference import fill_dense, fill_edges
from layermask.padding.rings import NEVER, epsilon, map_of

if TYPE_CHECKING:
    from jaxtyping import Shaped


def neighbor(x: Shaped[Masked, "N C *S"], reach: tuple[int, ...]) -> Shaped[Tensor, "N C *S"]:
    """The value with the hidden cells within `reach` (cells per spatial axis) of a visible one filled.

    `x.value`: (N, C, *S) with len(S) == len(reach); the mask varies along all of S or along none of it.
    What lies further away, or behind padding, is zero or, as no window that is kept reads it, unspecified
    still. Where nothing else holds the value and nothing is differentiated, it is filled in place.
    """
    if all(n == 1 for n in x.visible.shape[2:]):
        return zero_hidden(x)
    way = _way(x, reach)
    if x.is_padding is not None and way is not fill_dense:
        x = zero_hidden_pair(x)  # no ring fills cells that padding cuts off from the visible ones
    return way(x, reach)


def _way(x: Masked, reach: tuple[int, ...]) -> Callable[[Masked, tuple[int, ...]], Tensor]:
    """Which way to take: the fastest that may be."""
    if not _shares_mask(x) or x.value.requires_grad or max(reach) >= NEVER:
        return fill_dense  # the reference
    if torch.compiler.is_compiling():
        return _fill_by_kernel if custom_op.wanted() else fill_dense
    if is_traced(x.value) or x.value.dtype not in KINDS:
        return fill_dense
    if compiled_fill(x.value.device) is not None:
        return _fill_by_kernel
    return fill_edges if x.value.is_cpu and x.value.shape[1] > MOST_SLICED_CHANNELS else fill_dense


def _shares_mask(x: Masked) -> bool:
    """Whether all channels have one mask."""
    return x.visible.shape[1] == 1 and (x.is_padding is None or x.is_padding.shape[1] == 1)


def _fill_by_kernel(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Fill by the compiled kernel of the device: edge cells only, in place where that shows nowhere.

    A compiler gets operators that it does not look into. It may find that no copy is needed.
    """
    compiling = torch.compiler.is_compiling()
    kernel = custom_op if compiling else compiled_fill(x.value.device)
    if kernel is None or not any(reach):
        return x.value
    rings = map_of(x.forward_pass, x.visible, x.is_padding, reach, kernel)
    value = x.value if not compiling and exclusively_owned(x) else x.value.clone()
    kernel.fill_(value, rings, reach, epsilon(x))
    return value
