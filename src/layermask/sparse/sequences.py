"""Nodes of tokens: sequences laid end to end and cut, tables of positions, attention over visible keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import cached
from layermask.sparse import ops
from layermask.sparse.active import active_sites
from layermask.sparse.axes import Axis
from layermask.sparse.graph import Node, Slice
from layermask.sparse.ops import to_compute_dtype


class _Whole(Node):
    """Rows that are made for all cells of the mask at once, and chosen from after that."""

    def chosen(self, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.rows is None:
            super().chosen(self.mask)
        return super().chosen(mask)

    def compute(self, mask: Tensor) -> Tensor:
        return self.all_rows()

    def all_rows(self) -> Tensor:
        raise NotImplementedError


class Table(Node):
    """Rows of a plain tensor (N or 1, H, W, C), read at once: it may be written to later."""

    def __init__(self, like: Node, mask: Tensor, table: Tensor) -> None:
        super().__init__(like.forward_pass, mask, like.batch, like.kind.new_empty(0, table.shape[3]))
        cells = active_sites(self.forward_pass, mask, like.batch).cells
        rows = table.detach().flatten(0, 2)
        at = cells if len(table) == like.batch else cells % len(rows)
        self.rows, self.rows_mask = to_compute_dtype(rows.index_select(0, at)), mask


class EndToEnd(_Whole):
    """Sequences one behind the other: nodes of tokens, and plain tokens (N or 1, L, C), which are visible."""

    def __init__(self, mask: Tensor, like: Node, parts: Sequence[Node | Tensor]) -> None:
        nodes = [part for part in parts if isinstance(part, Node)]
        super().__init__(like.forward_pass, mask, like.batch, like.kind, *nodes)
        self.parts = [part if isinstance(part, Node) else part.detach().clone() for part in parts]

    def all_rows(self) -> Tensor:
        sites, begin = active_sites(self.forward_pass, self.mask, self.batch), 0
        length = self.mask.shape[2] * self.mask.shape[3]
        out = ops.empty(to_compute_dtype(self.kind), sites.count, self.channels)
        images = torch.arange(self.batch, device=self.mask.device)[:, None] * length
        for part in self.parts:
            if isinstance(part, Node):
                own = part.mask.shape[2] * part.mask.shape[3]
                cells = active_sites(self.forward_pass, part.mask, self.batch).cells
                cells, rows = cells + cells // own * (length - own) + begin, part.at(part.mask)
            else:
                own = part.shape[1]
                cells = (images + torch.arange(begin, begin + own, device=images.device)).flatten()
                rows = to_compute_dtype(part).expand(self.batch, -1, -1).reshape(-1, self.channels)
            out.index_copy_(0, sites.number[cells].long(), rows)
            begin += own
        self.parts = []
        return out


class Part(_Whole):
    """The tokens of a sequence from one place on, as many as the mask has."""

    def __init__(self, source: Node, mask: Tensor, begin: int) -> None:
        super().__init__(source.forward_pass, mask, source.batch, source.kind, source)
        self.begin = begin

    def all_rows(self) -> Tensor:
        (source,) = self.sources
        own, length = (mask.shape[2] * mask.shape[3] for mask in (self.mask, source.mask))
        cells = active_sites(self.forward_pass, self.mask, self.batch).cells
        cells = cells + cells // own * (length - own) + self.begin
        number = active_sites(self.forward_pass, source.mask, self.batch).number
        return source.at(source.mask).index_select(0, number[cells])


@dataclass(eq=False)
class Sequences:
    """The visible rows of a mask as sequences that attend within themselves."""

    rows: Tensor | None  # (V,) int64: the rows in the order of sequences; None: in their own
    places: Tensor  # (V,) int64: where in its sequence each of them lies
    numbers: Tensor  # (S,) int64: which sequences they are, of those that show anything
    lengths: list[int]  # of these

    @property
    def bounds(self) -> Iterator[tuple[int, int]]:
        begin = 0
        for length in self.lengths:
            yield begin, begin + length
            begin += length

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences as long as the longest, (S, K): whether there is a row, which, and where it lies."""
        device = self.places.device
        lengths = torch.tensor(self.lengths, device=device)
        there = torch.arange(max(self.lengths), device=device) < lengths[:, None]
        number = torch.zeros(there.shape, dtype=torch.long, device=device)
        number[there] = torch.arange(len(self.places), device=device) if self.rows is None else self.rows
        places = torch.zeros_like(number)
        places[there] = self.places
        return there, number, places


def sequences(
    forward_pass: ForwardPass, mask: Tensor, batch: int, leading: tuple[Axis, ...], along: Axis
) -> Sequences:
    """Those of a mask (N or 1, 1, H, W) along an axis, one for each index of the `leading` ones."""
    return cached(
        forward_pass,
        "sequences",
        (mask,),
        (batch, leading, along),
        lambda: _sequences(forward_pass, mask, batch, leading, along),
    )


def _sequences(
    forward_pass: ForwardPass, mask: Tensor, batch: int, leading: tuple[Axis, ...], along: Axis
) -> Sequences:
    cells = active_sites(forward_pass, mask, batch).cells.long()
    height, width = mask.shape[2:]
    index = {"n": cells // (height * width), "h": cells // width % height, "w": cells % width}
    places, each = (
        _read(along, index),
        _read(tuple(d for one in leading for d in one if d.kind != "c"), index),
    )
    rows = None
    if bool((each.diff() < 0).any()):
        rows = each.argsort(stable=True)
        each, places = each[rows], places[rows]
    numbers, lengths = each.unique_consecutive(return_counts=True)
    return Sequences(rows, places, numbers, lengths.tolist())


def _read(one: Axis, index: dict[str, Tensor]) -> Tensor:
    """The number that the digits of an axis make."""
    out = torch.zeros_like(index["n"])
    for digit in one:
        out = out * digit.size + index[digit.kind] // digit.step % digit.size
    return out


FEW_TOKENS = 64
"""Sequences shorter than this on average are padded to the longest one and attended to at once."""


class Attention(_Whole):
    """softmax(query key^T scale + bias) value within sequences, head by head."""

    def __init__(
        self,
        three: tuple[Node, Node, Node],
        heads: int,
        along: tuple[tuple[Axis, ...], Axis],
        scale: float | None,
        bias: Tensor | None = None,
    ) -> None:
        """`three`: query, key and value. `along`: the leading axes, and that of the keys.

        `bias`: (B or 1, heads or 1, L, L).
        """
        value = three[2]
        super().__init__(value.forward_pass, value.mask, value.batch, value.kind, *three)
        self.heads, self.along, self.scale, self.bias = heads, along, scale, bias

    def all_rows(self) -> Tensor:
        query, key, value = (self._by_heads(_rows_of(source)) for source in self.sources)
        known = sequences(self.forward_pass, self.mask, self.batch, *self.along)
        out = ops.empty(value, len(value), self.channels)
        by_heads = self._by_heads(out)
        if not known.lengths:
            return out
        at_once = out.is_cuda or len(out) < FEW_TOKENS * len(known.lengths)
        attend = self._at_once if at_once else self._one_by_one
        attend(known, query, key, value, by_heads)
        return out

    def _by_heads(self, rows: Tensor) -> Tensor:
        """(V, heads, D)"""
        return rows.unflatten(1, (self.heads, rows.shape[1] // self.heads))

    def _one_by_one(self, known: Sequences, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
        for (begin, end), number in zip(known.bounds, known.numbers.tolist(), strict=True):
            rows: slice | Tensor = slice(begin, end) if known.rows is None else known.rows[begin:end]
            q, k, v = (x[rows].transpose(0, 1)[None] for x in (query, key, value))
            bias = None if self.bias is None else self._bias_between(known.places[begin:end], number)
            answer = F.scaled_dot_product_attention(q, k, v, bias, scale=self.scale)
            out[rows] = answer[0].transpose(0, 1)

    def _bias_between(self, places: Tensor, number: int) -> Tensor:
        """(1, heads or 1, K, K) of one sequence."""
        assert self.bias is not None
        own = self.bias[number if len(self.bias) > 1 else 0]
        whole = len(places) == own.shape[-1] and bool((places.diff() > 0).all())
        own = own if whole else own[:, places[:, None], places]
        return to_compute_dtype(own)[None]

    def _at_once(self, known: Sequences, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
        there, rows, places = known.padded()
        q, k, v = (x[rows].transpose(1, 2) for x in (query, key, value))
        shown = there[:, None, None].expand(-1, 1, there.shape[1], -1)
        if self.bias is not None:
            shown = torch.where(shown, self._biases(known.numbers, places), -torch.inf)
        answer = F.scaled_dot_product_attention(q, k, v, shown, scale=self.scale)
        out[rows[there]] = answer.transpose(1, 2)[there]

    def _biases(self, numbers: Tensor, places: Tensor) -> Tensor:
        """(S, heads or 1, K, K) of padded sequences."""
        assert self.bias is not None
        own = numbers if len(self.bias) > 1 else torch.zeros_like(numbers)
        found = self.bias[own[:, None, None], :, places[:, :, None], places[:, None]]
        return to_compute_dtype(found.permute(0, 3, 1, 2))


def _rows_of(node: Node) -> Tensor:
    """All rows of a node; channels that are cut out of wider rows are not copied."""
    if isinstance(node, Slice) and node.rows is None:
        (whole,) = node.sources
        return whole.at(whole.mask)[:, node.begin : node.end]
    return node.at(node.mask)
