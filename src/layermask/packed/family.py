"""Packed values that are views of one map in torch: slices of its channels, other orders of its axes.

Rows are never changed, so such values need not share memory until one of them is written to in place.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .value import Packed


class Family:
    def __init__(self, root: Packed) -> None:
        assert root.node is not None
        self.node, self.strided_last = root.node, root.strided_last
        self.members: list[tuple[weakref.ref, int, int]] = []
        self._map: Tensor | None = None
        self.join(root, 0, root.node.channels)

    def join(self, x: Packed, begin: int, end: int) -> Packed:
        """Add the value that has the channels `begin` to `end` of the map."""
        self.members.append((weakref.ref(x), begin, end))
        x.family = self
        return x

    def _living(self) -> list[tuple[Packed, int, int]]:
        found = [(ref(), begin, end) for ref, begin, end in self.members]
        return [(x, begin, end) for x, begin, end in found if x is not None and x.family is self]

    def span(self, x: Packed) -> tuple[int, int]:
        """The channels of the map that `x` has."""
        return next((begin, end) for member, begin, end in self._living() if member is x)

    def seen_by_others(self, x: Packed) -> bool:
        """Whether a write to `x` would show in another value."""
        begin, end = self.span(x)
        return any(m is not x and b < end and begin < e for m, b, e in self._living())

    def part(self, x: Packed) -> Tensor:
        """The value of `x` as a view of the map, which is laid out once."""
        from .value import ORDERS, laid_out

        if self._map is None:
            self._map = laid_out(self.node, self.strided_last)
        begin, end = self.span(x)
        return self._map[:, begin:end].permute(ORDERS[x.order])

    def share_memory(self) -> None:
        """Make every member a dense view of the map from here on."""
        for x, _, _ in self._living():
            x.value, x.shared = self.part(x), True
