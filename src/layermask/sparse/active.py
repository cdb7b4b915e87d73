"""The visible cells of a mask as numbered rows, and what a window op over them reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import cached
from layermask.core.window import Window
from layermask.padding.devices import compiled_fill
from layermask.padding.rings import map_of
from layermask.sparse.plan import FillPlan, plan, window_cells


@dataclass(eq=False)
class ActiveSites:
    """The visible cells of a mask (N, H, W), in reading order: one row each."""

    visible: Tensor  # (N, H, W) bool, contiguous
    cells: Tensor  # (V,) int32, numbered over (N, H, W)
    number: Tensor  # (N * H * W,) int32: the row of a cell, -1 where hidden

    @property
    def count(self) -> int:
        return len(self.cells)

    @cached_property
    def begins(self) -> Tensor:
        """(N + 1,) int64: where each image's rows begin, and the end."""
        seen = self.visible.flatten(1).sum(1)
        return torch.cat([seen.new_zeros(1), seen.cumsum(0)])

    @cached_property
    def images(self) -> Tensor:
        """(V,) int32: the image of each row."""
        return self.cells // self.visible[0].numel()


def active_sites(forward_pass: ForwardPass, mask: Tensor, batch: int) -> ActiveSites:
    """The sites of a mask (N or 1, 1, H, W)."""
    return cached(
        forward_pass, "sites", (mask,), batch, lambda: _active_sites(mask.expand(batch, *mask.shape[1:]))
    )


def _active_sites(mask: Tensor) -> ActiveSites:
    visible = mask[:, 0].contiguous()
    flat = visible.flatten()
    cells = flat.nonzero()[:, 0].int()
    number = torch.full((flat.numel(),), -1, dtype=torch.int32, device=flat.device)
    number[cells] = torch.arange(len(cells), dtype=torch.int32, device=flat.device)
    return ActiveSites(visible, cells, number)


def plan_of(
    forward_pass: ForwardPass, source: Tensor, wanted: Tensor, window: Window, batch: int
) -> FillPlan:
    """What a window op at the sites of `wanted` reads of those of `source` (masks, as in `active_sites`)."""

    def compute() -> FillPlan:
        here, there = active_sites(forward_pass, source, batch), active_sites(forward_pass, wanted, batch)
        read = window_cells(there.cells, tuple(source.shape[2:]), tuple(wanted.shape[2:]), window)
        rings = map_of(forward_pass, source, None, window.reach, compiled_fill(source.device))
        rings = rings.expand(batch, *source.shape[1:])[:, 0].contiguous()
        return plan(rings, here.count, here.number, read, there.begins, window.reach)

    return cached(forward_pass, "row plan", (source, wanted), (window, batch), compute)


def window_rows(
    forward_pass: ForwardPass, source: Tensor, wanted: Tensor, window: Window, batch: int
) -> Tensor:
    """(M, T) int32: the visible row that each kernel offset reads, -1 where it reads none."""

    def compute() -> Tensor:
        here, there = active_sites(forward_pass, source, batch), active_sites(forward_pass, wanted, batch)
        read = window_cells(there.cells, tuple(source.shape[2:]), tuple(wanted.shape[2:]), window)
        return torch.where(read < 0, -1, here.number[read.clamp(min=0).flatten()].view_as(read))

    return cached(forward_pass, "window rows", (source, wanted), (window, batch), compute)


def rows_within(forward_pass: ForwardPass, outer: Tensor, inner: Tensor, batch: int) -> Tensor:
    """(V,) int32: the row among the sites of `outer` of each site of `inner`, which lies within it."""

    def compute() -> Tensor:
        return active_sites(forward_pass, outer, batch).number[active_sites(forward_pass, inner, batch).cells]

    return cached(forward_pass, "rows within", (outer, inner), batch, compute)
