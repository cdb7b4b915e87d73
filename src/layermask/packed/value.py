"""The packed form of `Masked`: a map of which only the visible cells are there, as rows of channels."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masked import Masked, Run
from ..visibility import derive
from .family import Family
from .node import Node
from .sites import sites_of

ORDERS = {"first": (0, 1, 2, 3), "last": (0, 2, 3, 1)}
"""Where channels are: the axes of (N, C, H, W) in the order that the value has them."""


class Packed(Masked):
    """A Masked whose value is laid out as a map only when a rule asks for it; hidden entries are then 0.

    `order` says where channels are (a key of `ORDERS`), `strided_last` whether the map is channels-last in
    memory.
    """

    def __init__(self, node: Node, order: str = "first", strided_last: bool = False) -> None:
        self.order, self.strided_last = order, strided_last
        self.frame = self.weights = None
        self.phase, self.shared = False, False
        self.run: Run | None = node.run
        self.family: Family | None = None
        self.hold(node)

    def hold(self, node: Node) -> Packed:
        """Stand for `node` from here on."""
        if (before := getattr(self, "node", None)) is not None:
            before.holders = [holder for holder in before.holders if holder() is not self]
        node.holders.append(weakref.ref(self))
        self.family = None
        self.node: Node | None = node
        self._value: Tensor | None = None
        self.visible = in_order(node.run, node.mask, self.order)
        return self

    @property
    def is_laid_out(self) -> bool:
        return self._value is not None

    def viewed(self, node: Node, begin: int, end: int, order: str) -> Packed:
        """A value that is, in torch, a view of this one: channels `begin` to `end`, in this order of axes."""
        family = self.family or Family(self)
        start = family.span(self)[0]
        return family.join(Packed(node, order, self.strided_last), start + begin, start + end)

    def written(self) -> None:
        """Be ready for a write in place by a dense rule."""
        if self.family is not None and self.node is not None:
            self.family.share_memory()

    @property
    def value(self) -> Tensor:  # type: ignore[override]  # an attribute of Masked
        if self._value is None:
            assert self.node is not None
            self._value = self._map(self.node)
        return self._value

    @value.setter
    def value(self, value: Tensor) -> None:
        self._value, self.node = value, None

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.value.shape if self.node is None else self._size(self.node)

    def _map(self, node: Node) -> Tensor:
        if self.family is not None:
            return self.family.part(self)
        return laid_out(node, self.strided_last).permute(ORDERS[self.order])

    def _size(self, node: Node) -> torch.Size:
        whole = (node.batch, node.channels, *node.mask.shape[2:])
        return torch.Size(whole[axis] for axis in ORDERS[self.order])

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Packed(shape={tuple(self.shape)}, dtype={self.dtype})"


def _of_node(name: str) -> Any:
    """A property that rows and the laid out map share."""
    return property(lambda self: getattr(self.value if self.node is None else self.node.kind, name))


for name in ("dtype", "device", "is_cuda", "is_cpu", "requires_grad", "layout"):
    setattr(Packed, name, _of_node(name))
Packed.dim = lambda self: self.ndim  # type: ignore  # asked for by every batch norm
Packed.ndim = property(lambda self: 4 if self.node is not None else self.value.ndim)  # type: ignore


def in_order(run: Run, mask: Tensor, order: str) -> Tensor:
    """A mask (N, 1, H, W) with its axes as the value has them."""
    if order == "first":
        return mask
    return derive(run, "channels last", (mask,), None, lambda: mask.permute(ORDERS[order]))


def laid_out(node: Node, strided_last: bool) -> Tensor:
    """(N, C, H, W), zero where hidden."""
    size = tuple(node.mask.shape[2:])
    flat = node.kind.new_zeros(node.batch * size[0] * size[1], node.channels)
    cells = sites_of(node.run, node.mask, node.batch).cells.long()
    flat.index_copy_(0, cells, node.at(node.mask).to(flat.dtype))
    value = flat.view(node.batch, *size, node.channels).permute(0, 3, 1, 2)
    return value if strided_last else value.contiguous()


class Padded(Packed):
    """A packed value with rows and columns of zeros around it: (left, right, top, bottom).

    `like`: the mask and frame of the padded value, by the rule of padding.
    """

    def __init__(self, inner: Packed, pads: tuple[int, int, int, int], like: Masked) -> None:
        assert inner.node is not None
        super().__init__(inner.node, "first", inner.strided_last)
        self.pads, self.visible, self.frame = pads, like.visible, like.frame

    def _map(self, node: Node) -> Tensor:
        return F.pad(laid_out(node, self.strided_last), self.pads)

    def _size(self, node: Node) -> torch.Size:
        (left, right, top, bottom), (h, w) = self.pads, node.mask.shape[2:]
        return torch.Size((node.batch, node.channels, h + top + bottom, w + left + right))
