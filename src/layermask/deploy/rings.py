"""The rings of neighbour padding in an exported graph, in operations that runtimes have fast kernels for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from layermask.deploy.graph import attribute, calls, replace
from layermask.rules.convolve import per_axis

aten = torch.ops.aten
_POOLS = {aten.conv1d.default: aten.avg_pool1d.default, aten.conv2d.default: aten.avg_pool2d.default}


def pool_rings(graph: fx.GraphModule) -> bool:
    """Turn rings into pools, which onnxruntime (not torch) has fast kernels for; False if there are none.

    A ring is x = where(cells, box_sum(x) / near, x), its box sum a depthwise convolution with ones. It
    becomes x plus its mean times weights that are 0 outside of `cells`. x is finite there too, as what is
    hidden was set to zero when it entered.
    """
    rings = [(n, _box_sum(graph, n)) for n in calls(graph) if n.target is aten.where.self]
    for node, box in rings:
        if box is not None:
            _pool(graph, node, box)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return any(box is not None for _, box in rings)


def _box_sum(graph: fx.GraphModule, where: fx.Node) -> Any:
    """The convolution of a ring; None if the node is something else."""
    _, mean, x = where.args
    if not isinstance(mean, fx.Node) or mean.target is not aten.div.Tensor or len(mean.users) != 1:
        return None
    box: Any = mean.args[0]
    if (
        not isinstance(box, fx.Node)
        or box.target not in _POOLS
        or box.args[0] is not x
        or len(box.users) != 1
    ):
        return None
    weight: Any = box.args[1]
    if weight.op != "get_attr" or not _is_depthwise_sum(attribute(graph, weight), box.args):
        return None
    return box


def _is_depthwise_sum(weight: Tensor, arguments: tuple[Any, ...]) -> bool:
    defaults: tuple[Any, ...] = (None, 1, 0, 1, 1)
    bias, stride, padding, dilation, groups = (*arguments[2:], *defaults[len(arguments) - 2 :])
    size = list(weight.shape[2:])
    geometry = [per_axis(sizes, len(size)) for sizes in (stride, dilation, padding)]
    ones, centred = (1,) * len(size), tuple(k // 2 for k in size)
    is_sum = bias is None and groups == len(weight) and bool((weight == 1).all())
    return is_sum and geometry == [ones, ones, centred]


def _pool(graph: fx.GraphModule, where: fx.Node, box: Any) -> None:
    cells, mean, x = where.args
    kernel = list(attribute(graph, box.args[1]).shape[2:])
    near: Any = mean.args[1]  # type: ignore[union-attr]  # a node, as `_box_sum` has found
    call = graph.graph.call_function
    with graph.graph.inserting_before(where):
        share = call(aten.reciprocal.default, (call(aten.div.Scalar, (near, math.prod(kernel))),))
        weight = call(aten.where.ScalarOther, (cells, share, 0.0))
        pooled = call(_POOLS[box.target], (x, kernel, [1] * len(kernel), box.args[4]))
        out = call(aten.add.Tensor, (x, call(aten.mul.Tensor, (pooled, weight))))
    replace(graph, where, out)
