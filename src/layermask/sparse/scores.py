"""Scores of attention that are written as a product, put off until the values are multiplied by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from layermask.core.forward_pass import ForwardPass
from layermask.core.masked import Masked, MaskedTensor
from layermask.sparse.axes import Axes, shape_of
from layermask.sparse.graph import Node
from layermask.sparse.value import KIND


@dataclass(frozen=True, eq=False)
class Scores:
    """softmax(query key^T * scale + bias), or what is there of it: `axes` are those of the query."""

    query: Node
    key: Node
    axes: Axes
    scale: float = 1.0
    bias: Tensor | None = None
    normalised: bool = False


class SparseScores(MaskedTensor):
    """A Masked of `scores`, until somebody asks for its value: what the dense rules give, by `make`.

    `make` reads nothing that may be written to meanwhile.
    """

    def __init__(
        self, forward_pass: ForwardPass, scores: Scores, make: Callable[[], Masked], visible: Tensor
    ) -> None:
        self.forward_pass: ForwardPass | None = forward_pass
        self.scores: Scores | None = scores
        self.make, self._visible, self._dense = make, visible, None
        self.strided_slice, self.aliased = False, False

    def then(self, function: Callable, changes: dict[str, Any]) -> SparseScores:
        """What an operator gives, whose dense rule is `function`."""
        assert self.scores is not None and self.forward_pass is not None
        make = self.make
        scores = replace(self.scores, **changes)
        return SparseScores(self.forward_pass, scores, lambda: function(make()), self._visible)

    @property
    def dense(self) -> Masked:
        """The map, which is the truth from here on."""
        if self._dense is None:
            self._dense, self.scores = self.make(), None
            self.made = self._dense.value
        return self._dense

    @property
    def present_value(self) -> Tensor | None:
        return None if self._dense is None else self._dense.value


def _of_dense(name: str) -> Any:
    """A part of the pair, read and written through."""
    return property(lambda self: getattr(self.dense, name), lambda self, x: setattr(self.dense, name, x))


for name in ("value", "is_padding", "softmax_axis"):
    setattr(SparseScores, name, _of_dense(name))


def _visible(x: SparseScores) -> Tensor:
    return x._visible if x.scores is not None else x.dense.visible


def _shape(x: SparseScores) -> torch.Size:
    if x.scores is None:
        return x.dense.value.shape
    shape = shape_of(x.scores.axes)
    return torch.Size((*shape[:-1], shape[-2]))


def _of_kind(name: str) -> Any:
    """A property that the scores share with the keys."""
    return property(lambda x: getattr(x.dense.value if x.scores is None else x.scores.key.kind, name))


for name in KIND:
    setattr(SparseScores, name, _of_kind(name))
SparseScores.visible = property(_visible, lambda self, visible: setattr(self.dense, "visible", visible))  # type: ignore
SparseScores.shape = property(_shape)  # type: ignore
SparseScores.ndim = property(lambda self: len(self.shape))  # type: ignore
