"""The sparse form of `Masked`: visible cells as rows of channels, until somebody asks for the map.

One representation is the truth at any moment. A `SparseMasked` begins as rows. Whoever reads its `value` gets
the map, and may keep it, make views of it and write to it. So from then on the map is the truth and the rows
are gone; an operator that wants rows gathers them again. Values that are views of one map in torch become
views of one map here, all at the same time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import cached
from layermask.core.masked import Masked, MaskedTensor
from layermask.sparse.active import active_sites
from layermask.sparse.graph import Node

ORDERS = {"first": (0, 1, 2, 3), "last": (0, 2, 3, 1)}
"""Where channels are: the axes of (N, C, H, W) in the order that the value has them."""


class SparseMasked(MaskedTensor):
    """A Masked that is rows while `node` is set, and a map after that, at first with 0 at hidden entries.

    `order` says where channels are (a key of `ORDERS`), `strided_last` whether the map is channels-last in
    memory.
    """

    def __init__(self, node: Node, order: str = "first", strided_last: bool = False) -> None:
        self.order, self.strided_last = order, strided_last
        self.is_padding = self.softmax_axis = None
        self.strided_slice, self.aliased = False, False
        self.forward_pass: ForwardPass | None = node.forward_pass
        self.aliases: AliasGroup | None = None
        self.node: Node | None = None
        self.replace_node(node)

    def replace_node(self, node: Node) -> SparseMasked:
        """Stand for other rows from here on: an operator wrote in place, and no other value sees it."""
        self._leave_node()
        node.holders.append(weakref.ref(self))
        self.aliases, self.node = None, node
        self._value: Tensor | None = None
        self._visible = self._arranged(node)
        return self

    def replace_by_map(self, value: Tensor, *, shared: bool) -> None:
        """Be a map from here on, of which `shared` says whether other values are views."""
        self._leave_node()
        self.aliases, self.node, self._value = None, None, value
        self.made = value
        self.aliased |= shared

    def _leave_node(self) -> None:
        if self.node is not None:
            self.node.holders = [holder for holder in self.node.holders if holder() is not self]

    def like_this(self, node: Node) -> SparseMasked:
        """Another value with axes like those of this one, as operators on each entry give it."""
        return SparseMasked(node, self.order, self.strided_last)

    def add_view(self, node: Node, begin: int, end: int, order: str) -> SparseMasked:
        """A value that is, in torch, a view of this one: channels `begin` to `end`, in this order of axes."""
        aliases = self.aliases or AliasGroup(self)
        start = aliases.span(self)[0]
        return aliases.join(SparseMasked(node, order, self.strided_last), start + begin, start + end)

    @property
    def strided_as_first(self) -> bool:
        """Whether an operator on each entry gives a value like this one where another operand comes first."""
        return True

    @property
    def strides(self) -> Tensor:
        """An empty tensor of the meta device, of the shape and strides that torch would give this value."""
        aliases = self.aliases or AliasGroup(self)
        return self.part_of(aliases.strides, *aliases.span(self))

    @property
    def seen_by_others(self) -> bool:
        """Whether a write to this value would show in another one."""
        return self.aliases is not None and self.aliases.overlap(self)

    @property
    def value(self) -> Tensor:  # type: ignore[override]  # an attribute of Masked
        if self.node is not None:
            if self.aliases is None:
                self.replace_by_map(self._map(self.node), shared=False)
            else:
                self.aliases.lay_out()
        assert self._value is not None
        return self._value

    @value.setter
    def value(self, value: Tensor) -> None:
        self.replace_by_map(value, shared=False)
        self.made = None  # whoever gives it may keep it

    @property
    def present_value(self) -> Tensor | None:
        return self._value

    @property
    def visible(self) -> Tensor:  # type: ignore[override]  # an attribute of Masked
        return self._visible

    @visible.setter
    def visible(self, visible: Tensor) -> None:
        _ = self.value  # rows are those of the mask before
        self._visible = visible

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.value.shape if self.node is None else self._size(self.node)

    def _map(self, node: Node) -> Tensor:
        return laid_out(node, self.strided_last).permute(ORDERS[self.order])

    def _size(self, node: Node) -> torch.Size:
        whole = (node.batch, node.channels, *node.mask.shape[2:])
        return torch.Size(whole[axis] for axis in ORDERS[self.order])

    def _arranged(self, node: Node) -> Tensor:
        """The mask of these rows, with its axes as the value has them."""
        return in_order(node.forward_pass, node.mask, self.order)

    def root(self, node: Node) -> tuple[Tensor, Callable[[], Tensor]]:
        """What views of this value are views of: its shape and strides, and how it is laid out."""
        size, strides_last = (node.batch, node.channels, *node.mask.shape[2:]), self.strided_last
        last = torch.channels_last if strides_last else torch.contiguous_format
        strides = torch.empty(size, dtype=node.kind.dtype, device="meta", memory_format=last)
        return strides, lambda: laid_out(node, strides_last)

    def part_of(self, whole: Tensor, begin: int, end: int) -> Tensor:
        """This value as a view of what was laid out for its group."""
        return whole[:, begin:end].permute(ORDERS[self.order])

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"SparseMasked(shape={tuple(self.shape)}, dtype={self.dtype})"


class AliasGroup:
    """Values that are views of one map in torch: slices of its channels, other orders of its axes.

    Rows are never changed, so such values need no common memory until one of them is written to.
    """

    def __init__(self, root: SparseMasked) -> None:
        assert root.node is not None
        self.strides, self._lay_out = root.root(root.node)
        self._members: list[tuple[weakref.ref[SparseMasked], int, int]] = []
        self.join(root, 0, root.node.channels)

    def join(self, x: SparseMasked, begin: int, end: int) -> SparseMasked:
        """Add the value that has the channels `begin` to `end` of the map."""
        self._members.append((weakref.ref(x), begin, end))
        x.aliases = self
        return x

    def _living(self) -> list[tuple[SparseMasked, int, int]]:
        found = [(ref(), begin, end) for ref, begin, end in self._members]
        return [(x, begin, end) for x, begin, end in found if x is not None and x.aliases is self]

    def span(self, x: SparseMasked) -> tuple[int, int]:
        """The channels of the map that `x` has."""
        return next((begin, end) for member, begin, end in self._living() if member is x)

    def overlap(self, x: SparseMasked) -> bool:
        """Whether another living value has channels of `x`."""
        begin, end = self.span(x)
        return any(m is not x and b < end and begin < e for m, b, e in self._living())

    def lay_out(self) -> None:
        """Lay the map out once, and make every living value a view of it. Each leaves the group by that."""
        whole = self._lay_out()
        for x, begin, end in self._living():
            x.replace_by_map(x.part_of(whole, begin, end), shared=True)


def _of_node(name: str) -> Any:
    """A property that rows and the laid out map share."""
    return property(lambda self: getattr(self.value if self.node is None else self.node.kind, name))


KIND = ("dtype", "device", "is_cuda", "is_cpu", "is_nested", "requires_grad", "layout")
for name in KIND:
    setattr(SparseMasked, name, _of_node(name))
SparseMasked.dim = lambda self: self.ndim  # type: ignore  # asked for by every batch norm
SparseMasked.ndim = property(lambda self: 4 if self.node is not None else self.value.ndim)  # type: ignore


def in_order(forward_pass: ForwardPass, mask: Tensor, order: str) -> Tensor:
    """A mask (N, 1, H, W) with its axes as the value has them."""
    if order == "first":
        return mask
    return cached(forward_pass, "channels last", (mask,), None, lambda: mask.permute(ORDERS[order]))


def laid_out(node: Node, strided_last: bool) -> Tensor:
    """(N, C, H, W), zero where hidden."""
    value = map_of_rows(node).permute(0, 3, 1, 2)
    return value if strided_last else value.contiguous()


def map_of_rows(node: Node) -> Tensor:
    """(N, H, W, C), zero where hidden."""
    size = tuple(node.mask.shape[2:])
    flat = node.kind.new_zeros(node.batch * size[0] * size[1], node.channels)
    cells = active_sites(node.forward_pass, node.mask, node.batch).cells.long()
    flat.index_copy_(0, cells, node.at(node.mask).to(flat.dtype))
    return flat.view(node.batch, *size, node.channels)


class Padded(SparseMasked):
    """A sparse value with rows and columns of zeros around it: (left, right, top, bottom).

    `like`: the mask and padding of the padded value, by the rule of padding.
    """

    def __init__(self, inner: SparseMasked, pads: tuple[int, int, int, int], like: Masked) -> None:
        assert inner.node is not None
        super().__init__(inner.node, "first", inner.strided_last)
        self.pads, self._visible, self.is_padding = pads, like.visible, like.is_padding

    def _map(self, node: Node) -> Tensor:
        return F.pad(laid_out(node, self.strided_last), self.pads)

    def _size(self, node: Node) -> torch.Size:
        (left, right, top, bottom), (h, w) = self.pads, node.mask.shape[2:]
        return torch.Size((node.batch, node.channels, h + top + bottom, w + left + right))
