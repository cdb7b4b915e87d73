"""Neighbour padding (the paper's Algorithm 1): hidden cells near the visible part, filled ring by ring.

The r-th ring of hidden cells takes the mean of its neighbours (up to 3^d - 1) that are visible or in an
earlier ring. A window that holds a visible cell reads no further than `reach` cells from it, so `reach`
rings give the same windows, bit for bit, as the paper's k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layermask.core.mask import cached
from layermask.core.masked import Masked, settled
from layermask.core.ownership import exclusively_owned
from layermask.core.tracing import is_traced
from layermask.core.window import FEW_CHANNELS
from layermask.kernels.signatures import KINDS
from layermask.padding import custom_op
from layermask.padding.devices import compiled_fill
from layermask.padding.reference import fill_dense, fill_edges
from layermask.padding.rings import NEVER, epsilon, masks_of


def neighbor(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """The value with the hidden cells within `reach` (cells per spatial axis) of a visible one filled.

    `x.value`: (N, C, *S) with len(S) == len(reach); the mask varies along all of S or along none of it.
    What lies further away, or behind a frame, is zero or, as no window that is kept reads it, unspecified
    still. Where nothing else holds the value and nothing is differentiated, it is filled in place.
    """
    if all(n == 1 for n in x.visible.shape[2:]):
        return settled(x)
    way = _way(x, reach)
    return way(x if x.frame is None or way is fill_dense else _with_zeros(x), reach)


def _with_zeros(x: Masked) -> Masked:
    """With zeros at hidden cells: no ring fills those that a frame cuts off from the visible ones."""
    out = Masked(settled(x), x.visible, frame=x.frame)
    out.run = x.run
    return out


def _way(x: Masked, reach: tuple[int, ...]) -> Callable[[Masked, tuple[int, ...]], Tensor]:
    """Which way to take: the fastest that may be."""
    if not _shares_mask(x) or x.value.requires_grad or max(reach) >= NEVER:
        return fill_dense  # the reference
    if torch.compiler.is_compiling():
        return _fill_opaquely if custom_op.wanted() else fill_dense
    if is_traced(x.value) or x.value.dtype not in KINDS:
        return fill_dense
    if compiled_fill(x.value.device) is not None:
        return _fill_by_kernel
    return fill_edges if x.value.is_cpu and x.value.shape[1] > FEW_CHANNELS else fill_dense


def _shares_mask(x: Masked) -> bool:
    """Whether all channels have one mask."""
    return x.visible.shape[1] == 1 and (x.frame is None or x.frame.shape[1] == 1)


def _fill_by_kernel(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Fill by the compiled kernel of the device: edge cells only, in place where that shows nowhere."""
    kernel = compiled_fill(x.value.device)
    if kernel is None or not any(reach):
        return x.value
    rings = cached(x.run, "ring map", masks_of(x), reach, lambda: kernel.rings(x.visible, x.frame, reach))
    value = x.value if exclusively_owned(x) else x.value.clone()
    kernel.fill_(value, rings, reach, epsilon(x))
    return value


def _fill_opaquely(x: Masked, reach: tuple[int, ...]) -> Tensor:
    """Fill by operators that a compiler does not look into. It may find that no copy is needed."""
    if not any(reach):
        return x.value
    value = x.value.clone()
    rings = cached(x.run, "ring map", masks_of(x), reach, lambda: custom_op.rings(x.visible, x.frame, reach))
    custom_op.fill_(value, rings, reach, epsilon(x))
    return value


FILLS = ("neighbor", "zero", "renormalize")
"""What convolutions read at hidden cells: their neighbours' mean (the paper), zero, or zero with the sum
rescaled by the visible share of the window (partial convolution, Liu et al. 2018)."""
