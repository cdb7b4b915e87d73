"""Sparse values of other axes than those of a map: sequences of tokens, heads of attention, windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layermask.core.mask import cached
from layermask.core.masked import Masked
from layermask.sparse.axes import Axes, arranged, of_map, shape_of
from layermask.sparse.graph import Node
from layermask.sparse.value import ORDERS, AliasGroup, SparseMasked, map_of_rows


class SparseTokens(SparseMasked):
    """A `SparseMasked` whose axes stand for its rows as `axes` says.

    `strides` is an empty tensor of the meta device, of the shape, strides and storage that torch would give
    the value: what torch does with that one tells whether a reshape is a view or a copy.
    """

    def __init__(self, node: Node, axes: Axes, strides: Tensor | None = None) -> None:
        """`strides`: by default those of a new value, in order."""
        self.axes = axes
        new = strides is None
        self._strides = torch.empty(shape_of(axes), dtype=node.kind.dtype, device="meta") if new else strides
        super().__init__(node, order="tokens")

    @property
    def strides(self) -> Tensor:
        return self._strides

    @property
    def strided_as_first(self) -> bool:
        return self._strides.is_contiguous()

    def like_this(self, node: Node) -> SparseTokens:
        return SparseTokens(node, self.axes, torch.empty_like(self._strides))

    def copied(self) -> Callable[[], Masked]:
        """What gives the value as it is now, laid out apart from all others."""
        node, axes, strides, visible = self.node, self.axes, self._strides, self._visible
        assert node is not None

        def make() -> Masked:
            out = Masked(_laid_out(node, axes, strides), visible)
            out.forward_pass = node.forward_pass
            return out

        return make

    def _map(self, node: Node) -> Tensor:
        return _laid_out(node, self.axes, self._strides)

    def _size(self, node: Node) -> torch.Size:
        return torch.Size(shape_of(self.axes))

    def _arranged(self, node: Node) -> Tensor:
        mask, axes = node.mask, self.axes
        return cached(
            node.forward_pass, "tokens", (mask,), axes, lambda: arranged(mask.permute(0, 2, 3, 1), axes)
        )

    def root(self, node: Node) -> tuple[Tensor, Callable[[], Tensor]]:
        """What views of this value are views of, and how it is laid out; it is a view of nothing itself."""
        axes, own = self.axes, self._strides
        self._strides = own = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device="meta")
        return own, lambda: _laid_out(node, axes, own)

    def part_of(self, whole: Tensor, begin: int, end: int) -> Tensor:
        place = self._strides
        return whole.as_strided(place.shape, place.stride(), place.storage_offset())


SparseTokens.ndim = property(lambda self: len(self.axes) if self.node is not None else self.value.ndim)  # type: ignore


def axes_of(x: SparseMasked) -> Axes:
    """The axes of a value of rows, be it a map."""
    if isinstance(x, SparseTokens):
        return x.axes
    assert x.node is not None
    batch, (height, width), channels = x.node.batch, x.node.mask.shape[2:], x.node.channels
    return of_map(batch, height, width, channels, ORDERS[x.order])


def add_view(x: SparseMasked, node: Node, axes: Axes, strides: Tensor) -> SparseTokens:
    """A value that is, in torch, a view of `x`; of the channels of `x` it may have any."""
    aliases = x.aliases or AliasGroup(x)
    out = SparseTokens(node, axes, strides)
    aliases.join(out, *aliases.span(x))
    return out


def _laid_out(node: Node, axes: Axes, strides: Tensor) -> Tensor:
    """The value with these strides, zero where hidden."""
    value = arranged(map_of_rows(node), axes)
    if value.stride() == strides.stride():
        return value
    return value.new_empty_strided(strides.shape, strides.stride()).copy_(value)
