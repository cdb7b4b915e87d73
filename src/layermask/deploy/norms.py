"""Batch norm in evaluation as part of the convolution or linear layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from layermask.deploy.graph import attribute, calls, constant_before, replace
from layermask.rules import normalise

aten = torch.ops.aten
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LAYERS = (
    aten.linear.default,
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
    *TRANSPOSED,
)
"""Operations whose weight and bias, the second and third argument, take in the norm that follows."""


def fold_graph_norms(graph: fx.GraphModule) -> None:
    """Scale the weights of each layer by the norm behind it, where nothing else reads the layer."""
    for norm in calls(graph):
        if norm.target is aten.batch_norm.default and is_foldable(norm):
            layer: Any = norm.args[0]
            for index, name, value in zip(
                (1, 2), ("weight", "bias"), folded_parameters(graph, norm), strict=True
            ):
                constant = constant_before(graph, layer, f"folded_{layer.name}_{name}", value)
                layer.args = (*layer.args[:index], constant, *layer.args[index + 1 :])
            replace(graph, norm, layer)


def is_foldable(norm: fx.Node) -> bool:
    layer, *parameters, training = norm.args[:6]
    if training or not isinstance(layer, fx.Node) or layer.target not in LAYERS or len(layer.users) != 1:
        return False
    if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:  # its features lie elsewhere
        return False
    running = parameters[2:]
    tensors = [t for t in (*layer.args[1:3], *parameters) if t is not None]
    return None not in running and all(isinstance(t, fx.Node) and t.op == "get_attr" for t in tensors)


def folded_parameters(graph: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with its norm."""
    layer: Any = norm.args[0]
    epsilon: Any = norm.args[7]

    def value(node: Any) -> Any:
        return None if node is None else attribute(graph, node)

    gamma, beta, mean, var = map(value, norm.args[1:5])
    weight, bias = value(layer.args[1]), value(layer.args[2]) if len(layer.args) > 2 else None
    norms = [normalise.scale_and_shift(mean, var, gamma, beta, epsilon)]
    return normalise.fold_batch_norms(weight, bias, norms, lambda scale: _per_weight(scale, layer, weight))


def _per_weight(scale: Tensor, layer: Any, weight: Tensor) -> Tensor:
    """The scale of each output channel (C,), shaped to multiply the layer's weight."""
    if layer.target not in TRANSPOSED:  # (C, in / groups, *kernel)
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = layer.args[6] if len(layer.args) > 6 else 1  # (in, C / groups, *kernel)
    by_group = scale.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
    return by_group.reshape(len(weight), -1, *[1] * (weight.ndim - 2))
