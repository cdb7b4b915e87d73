"""What a convolution does in its own loop: norms, a sum, an activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layermask.kernels.activation import NOTHING, Activation
from layermask.sparse import ops
from layermask.sparse.graph import Cat, Conv, Node
from layermask.sparse.ops import to_compute_dtype
from layermask.sparse.weights import Norm, Scale


class _Absorbed(Node):
    """What a convolution before it can do in its own loop."""

    def compute(self, mask: Tensor) -> Tensor:
        found = _convolution_behind(self)
        return self.alone(mask) if found is None else found[0].fused(mask, *found[1:])

    def alone(self, mask: Tensor) -> Tensor:
        raise NotImplementedError


class Affine(_Absorbed):
    """A batch norm in evaluation, or a scale."""

    def __init__(self, source: Node, norm: Norm | Scale) -> None:
        super().__init__(source.forward_pass, source.mask, source.batch, source.kind, source)
        self.norm = norm

    @property
    def weights_given(self) -> Sequence[Tensor | None]:
        return self.norm.weights.given

    def alone(self, mask: Tensor) -> Tensor:
        return self.ended(mask, NOTHING)

    def ended(self, mask: Tensor, end: Activation) -> Tensor:
        norm, (source,) = self.norm, self.sources
        kind, prepared = to_compute_dtype(self.kind), self.forward_pass.sparse_engine.prepared
        vectors: tuple[Tensor, Tensor] = prepared.get(
            (norm.weights,), ("affine", norm.eps), lambda: tuple(v.to(kind) for v in norm.scale_and_shift())
        )
        if isinstance(source, Cat) and source.private:
            return source.scaled(mask, vectors, end)
        return ops.affine(*source.chosen(mask), *vectors, end)


class ActivationNode(_Absorbed):
    """An activation."""

    def __init__(self, source: Node, end: Activation) -> None:
        super().__init__(source.forward_pass, source.mask, source.batch, source.kind, source)
        self.end = end

    def alone(self, mask: Tensor) -> Tensor:
        (source,) = self.sources
        if isinstance(source, Affine) and source.private:
            return source.ended(mask, self.end)
        return ops.affine(*source.chosen(mask), None, None, self.end)


class Sum(_Absorbed):
    def __init__(self, mask: Tensor, a: Node, b: Node) -> None:
        super().__init__(a.forward_pass, mask, a.batch, a.kind, a, b)

    def alone(self, mask: Tensor) -> Tensor:
        a, b = self.sources
        rows, others = a.at(mask), b.at(mask)
        return torch.add(rows, others, out=ops.empty(rows, *rows.shape))


def _convolution_behind(node: Node) -> tuple[Conv, list[Norm | Scale], Node | None, Activation] | None:
    """The convolution that can do all of `node`: norms, what is added, the activation, in this order."""
    end, added = NOTHING, None
    if isinstance(node, ActivationNode):
        end, node = node.end, node.sources[0]
        if not node.private:
            return None
    branches = node.sources if isinstance(node, Sum) else (node,)
    for i, branch in enumerate(branches):
        added = branches[1 - i] if len(branches) == 2 else None
        found = _normed(branch, top=branch is node)
        if found is not None:
            return *found, added, end
    return None


def _normed(node: Node, top: bool) -> tuple[Conv, list[Norm | Scale]] | None:
    norms: list[Norm | Scale] = []
    while top or node.private:
        top = False
        if isinstance(node, Conv):
            return node, norms[::-1]
        if not isinstance(node, Affine):
            return None
        norms.append(node.norm)
        node = node.sources[0]
    return None
