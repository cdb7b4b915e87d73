"""Operations put off until somebody needs their rows.

Putting off serves two ends. Where masks meet, only cells of the joined mask are computed of either side, back
to the last op that reads neighbours. And a convolution takes norm, sum and activation behind it into its own
loop.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from layermask.core.call_site import owner_path
from layermask.core.forward_pass import ForwardPass
from layermask.core.rule_table import name_of
from layermask.core.window import Window
from layermask.kernels.activation import NOTHING, Activation
from layermask.kernels.operands import RowSource, Weights
from layermask.sparse import ops
from layermask.sparse.active import active_sites, plan_of, rows_within, window_rows
from layermask.sparse.ops import to_compute_dtype
from layermask.sparse.plan import window_cells
from layermask.sparse.weights import Captured, Norm, Scale, folded_weights

MOST_WAITING = 50
"""How many nodes may wait one behind the other: asking for the last calls all of them."""


class Node:
    """Rows of channels at the visible cells of `mask`, computed once they are asked for.

    `mask`: (N or 1, 1, H, W) bool of `batch` images. `kind`: (0, C), of the map's dtype and device; rows are
    of `to_compute_dtype(kind)`'s.
    """

    def __init__(
        self, forward_pass: ForwardPass, mask: Tensor, batch: int, kind: Tensor, *sources: Node
    ) -> None:
        self.forward_pass, self.mask, self.batch, self.kind = forward_pass, mask, batch, kind
        self.function = forward_pass.function  # for errors: what is put off fails later
        self.sources: tuple[Node, ...] = sources
        self.uses = 0  # how many nodes read this one
        self.holders: list[weakref.ref] = []  # the values that stand for it, outside
        self.rows: Tensor | None = None
        self.rows_mask: Tensor | None = None
        for source in sources:
            source.uses += 1
            if source.waiting >= MOST_WAITING:
                source.at(source.mask)
        self.waiting = 1 + max((source.waiting for source in sources if source.rows is None), default=0)

    @property
    def channels(self) -> int:
        return self.kind.shape[1]

    @property
    def private(self) -> bool:
        """Not computed yet, and asked for by the one node that reads it alone."""
        held = any(holder() is not None for holder in self.holders)
        return self.rows is None and self.uses == 1 and not held

    def at(self, mask: Tensor) -> Tensor:
        """(V, C): the rows at the cells of `mask`, which lies within this node's own."""
        rows, at = self.chosen(mask)
        return rows if at is None else rows.index_select(0, at)

    def chosen(self, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same as rows and which of them, (V,) int32: what is there already is not copied."""
        if self.rows is None or (self.rows_mask is not mask and self.rows_mask is not self.mask):
            self.rows, self.rows_mask = self._computed(mask), mask
            if mask is self.mask:
                self.sources = ()  # what the rows were made of may go
        assert self.rows_mask is not None
        if self.rows_mask is mask:
            return self.rows, None
        return self.rows, rows_within(self.forward_pass, self.rows_mask, mask, self.batch)

    def _computed(self, mask: Tensor) -> Tensor:
        """`compute`, with errors that name the operator that was called, and not the one that asks now."""
        try:
            return self.compute(mask)
        except Exception as error:
            self._blame(error)
            raise

    def _blame(self, error: Exception) -> None:
        """Name this operator in an error, unless the one where it happened has been named."""
        if not getattr(error, "is_placed", False):
            error.is_placed = True  # type: ignore[attr-defined]
            error.args = (f"{error} ({self._place()})", *error.args[1:])

    def _place(self) -> str:
        """What was computed, in words."""
        name = name_of(self.function) if self.function else type(self).__name__
        size = (self.batch, self.channels, *self.mask.shape[2:])
        path = owner_path(self.weights_given)
        return f"in {name} to a map of shape {size}" + (f", in module {path!r}" if path else "")

    @property
    def weights_given(self) -> Sequence[Tensor | None]:
        """The model's weights that the operator was called with."""
        return ()

    def compute(self, mask: Tensor) -> Tensor:
        raise NotImplementedError


class Input(Node):
    """A dense map (N, C, H, W), read at once: it may be written to later."""

    def __init__(self, forward_pass: ForwardPass, mask: Tensor, value: Tensor) -> None:
        super().__init__(forward_pass, mask, len(value), value.new_empty(0, value.shape[1]))
        cells = active_sites(forward_pass, mask, len(value)).cells
        self.rows = to_compute_dtype(
            value.permute(0, 2, 3, 1).reshape(-1, value.shape[1]).index_select(0, cells)
        )
        self.rows_mask = mask


class Conv(Node):
    """A convolution, or a linear layer of channels."""

    def __init__(
        self, source: Node, mask: Tensor, window: Window, weights: Captured, groups: int = 1
    ) -> None:
        """`weights`: the weight, (K, C / groups, *kernel) or (K, C), and the bias, (K,) or None."""
        super().__init__(source.forward_pass, mask, source.batch, _kind(source.kind, weights), source)
        self.window, self.captured, self.groups = window, weights, groups
        if not window.pointlike:
            source.at(source.mask)  # of which it reads all in any case; so nothing piles up

    @property
    def weights_given(self) -> Sequence[Tensor | None]:
        return self.captured.given

    def compute(self, mask: Tensor) -> Tensor:
        return self.fused(mask, [], None, NOTHING)

    def fused(self, mask: Tensor, norms: list[Norm | Scale], added: Node | None, end: Activation) -> Tensor:
        """end(norms(convolution) + added) at the cells of `mask`."""
        try:
            return self._fused(mask, norms, added, end)
        except Exception as error:
            self._blame(error)
            raise

    def _fused(self, mask: Tensor, norms: list[Norm | Scale], added: Node | None, end: Activation) -> Tensor:
        weights = self.weights(norms)
        source, table = self.read(mask)
        if not weights.depthwise:
            return ops.product(source, table, weights, added and added.chosen(mask), end)
        assert table is not None
        if added is None:
            return ops.depthwise(source, table, weights, end)
        return end(ops.depthwise(source, table, weights).add_(added.at(mask)))

    def read(self, mask: Tensor) -> tuple[RowSource, Tensor | None]:
        """What is read for the cells of `mask`, and the table of it."""
        (source,) = self.sources
        if self.window.pointlike:
            rows, at = source.chosen(mask)
            return RowSource(rows), None if at is None else at[:, None]
        plan = plan_of(self.forward_pass, source.mask, mask, self.window, self.batch)
        return ops.fill(source.at(source.mask), plan), plan.table

    def weights(self, norms: list[Norm | Scale]) -> Weights:
        captured = (self.captured, *(norm.weights for norm in norms))
        params = (type(self), self.groups, *((type(norm), norm.eps) for norm in norms))
        return self.forward_pass.sparse_engine.prepared.get(captured, params, lambda: self.prepare(norms))

    def prepare(self, norms: list[Norm | Scale]) -> Weights:
        return ops.prepare(*folded_weights(self.captured, norms), self.groups)


class InputConv(Conv):
    """A convolution of an image of few channels: what one row of a window reads lies side by side."""

    def __init__(
        self, forward_pass: ForwardPass, image: Tensor, mask: Tensor, window: Window, weights: Captured
    ) -> None:
        """`image`: (N, C, H, W), filled as far as the window reads."""
        Node.__init__(self, forward_pass, mask, len(image), _kind(image, weights))
        self.window, self.captured, self.groups = window, weights, 1
        (top, left), (bottom, right) = window.before, window.after
        self.image = to_compute_dtype(
            F.pad(image.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom)).contiguous()
        )

    def read(self, mask: Tensor) -> tuple[RowSource, Tensor | None]:
        n, h, w, c = self.image.shape
        down, along = self.window.kernel
        rows = Window((down, 1), self.window.stride, (0, 0), (0, 0), (self.window.dilation[0], 1))
        table = window_cells(
            active_sites(self.forward_pass, mask, self.batch).cells, (h, w), tuple(mask.shape[2:]), rows
        )
        return RowSource(self.image.view(-1).as_strided((n * h * w - along + 1, along * c), (c, 1))), table

    def prepare(self, norms: list[Norm | Scale]) -> Weights:
        weight, bias = folded_weights(self.captured, norms)
        return ops.prepare(weight.permute(0, 3, 1, 2).flatten(1, 2), bias, 1)


def _kind(like: Tensor, weights: Captured) -> Tensor:
    """(0, K) for a weight of K outputs."""
    (weight, _) = weights.tensors
    assert weight is not None
    return like.new_empty(0, len(weight))


class MaxPool(Node):
    def __init__(self, source: Node, mask: Tensor, window: Window) -> None:
        super().__init__(source.forward_pass, mask, source.batch, source.kind, source)
        self.window = window

    def compute(self, mask: Tensor) -> Tensor:
        (source,) = self.sources
        table = window_rows(self.forward_pass, source.mask, mask, self.window, self.batch)
        return ops.maximum(source.at(source.mask), table)


class MeanPool(Node):
    """The mean over windows that lie within the map, hidden cells filled."""

    def __init__(self, source: Node, mask: Tensor, window: Window) -> None:
        super().__init__(source.forward_pass, mask, source.batch, source.kind, source)
        self.window = window

    def compute(self, mask: Tensor) -> Tensor:
        (source,) = self.sources
        plan = plan_of(self.forward_pass, source.mask, mask, self.window, self.batch)
        size = math.prod(self.window.kernel)
        values = to_compute_dtype(self.kind).new_full((size, self.channels), 1 / size)
        weights = Weights((self.channels, 1, size, 1), values, None)
        return ops.depthwise(ops.fill(source.at(source.mask), plan), plan.table, weights)


class Cat(Node):
    """Channels side by side."""

    def __init__(self, mask: Tensor, *sources: Node) -> None:
        first = sources[0]
        channels = sum(source.channels for source in sources)
        super().__init__(first.forward_pass, mask, first.batch, first.kind.new_empty(0, channels), *sources)

    def compute(self, mask: Tensor) -> Tensor:
        return self.scaled(mask, None, NOTHING)

    def scaled(self, mask: Tensor, norm: tuple[Tensor, Tensor] | None, how: Activation) -> Tensor:
        return ops.side_by_side([source.chosen(mask) for source in self.sources], norm, how)


class Slice(Node):
    """Some channels that follow each other."""

    def __init__(self, source: Node, begin: int, end: int) -> None:
        super().__init__(source.forward_pass, source.mask, source.batch, source.kind[:, begin:end], source)
        self.begin, self.end = begin, end

    def compute(self, mask: Tensor) -> Tensor:
        (source,) = self.sources
        if source.uses > 1:  # by other slices, perhaps of other cells
            source.at(source.mask)
        rows, at = source.chosen(mask)
        part = rows[:, self.begin : self.end]
        return part.contiguous() if at is None else part.index_select(0, at)


class ChannelScale(Node):
    """Every channel times a number of its image (N, C), or of all (1, C)."""

    def __init__(self, source: Node, mask: Tensor, vectors: Tensor) -> None:
        super().__init__(source.forward_pass, mask, source.batch, source.kind, source)
        self.vectors = vectors

    def compute(self, mask: Tensor) -> Tensor:
        rows, at = self.sources[0].chosen(mask)
        images = None if len(self.vectors) == 1 else active_sites(self.forward_pass, mask, self.batch).images
        return ops.affine(rows, at, to_compute_dtype(self.vectors), None, NOTHING, scale_at=images)


class LayerNorm(Node):
    """Over the channels of each cell."""

    def __init__(self, source: Node, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__(source.forward_pass, source.mask, source.batch, source.kind, source)
        self.weight, self.bias, self.eps = weight, bias, eps

    def compute(self, mask: Tensor) -> Tensor:
        weight, bias = (x if x is None else to_compute_dtype(x) for x in (self.weight, self.bias))
        return ops.layer_norm(*self.sources[0].chosen(mask), weight, bias, self.eps)


class Pointwise(Node):
    """Any function of each entry by itself; `function` takes the sources' rows and the sites."""

    def __init__(self, function: Callable[..., Tensor], mask: Tensor, *sources: Node) -> None:
        first = sources[0]
        super().__init__(first.forward_pass, mask, first.batch, first.kind, *sources)
        self.apply = function

    def compute(self, mask: Tensor) -> Tensor:
        return self.apply(mask, *(source.at(mask) for source in self.sources))
