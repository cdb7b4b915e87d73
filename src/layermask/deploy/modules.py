"""Batch norm folded into a copy of the model itself, which every removal runs as it runs any model."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.deploy.graph import calls, unguarded
from layermask.deploy.norms import aten, folded_parameters, is_foldable
from layermask.deploy.program import refuse_training

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@checked(model=kinds.model, images=kinds.images)
def fold_model_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of the model with each batch norm in evaluation as part of the layer before it.

    Which layer a norm follows is read off the exported graph. Norms whose layer something else reads too,
    and those of modules that do more than a norm, an activation and dropout, stay as they are.

    Args:
        model: in eval mode; neither kept nor changed.
        images: (N, C, *S), an example.

    Raises:
        InputError: the model is in training mode.
    """
    refuse_training(model)
    with torch.no_grad():
        graph = unguarded(torch.export.export(model, (images,), strict=False))
    model = copy.deepcopy(model)
    for layer, norm, node in list(_pairs(graph, model)):
        weight, bias = folded_parameters(graph, node)
        held = bool(layer.weight.requires_grad)
        layer.weight, layer.bias = nn.Parameter(weight, held), nn.Parameter(bias, held)
        parent, _, name = norm.rpartition(".")
        setattr(model.get_submodule(parent), name, _rest(model.get_submodule(norm)))
    return model


def _pairs(graph: fx.GraphModule, model: nn.Module) -> Iterator[tuple[Any, str, fx.Node]]:
    """Layers, the names of the norms to fold into them, and the norms' nodes."""
    uses = Counter(argument for node in calls(graph) for argument in node.all_input_nodes)
    for node in calls(graph):
        if node.target is not aten.batch_norm.default or not is_foldable(node):
            continue
        convolution, _, _, mean = cast(tuple[Any, ...], node.args[:4])
        weight = convolution.args[1]
        (layer, parameter), (norm, _) = _owner(weight), _owner(mean)
        once = uses[weight] == uses[mean] == 1
        if once and parameter == "weight" and _rest(model.get_submodule(norm)) is not None:
            yield model.get_submodule(layer), norm, node


def _owner(node: Any) -> tuple[str, str]:
    """The names of the module and of its parameter."""
    module, _, name = str(node.target).rpartition(".")
    return module, name


def _rest(norm: Any) -> nn.Module | None:
    """What the module does behind its norm; None if that is not known."""
    if type(norm) in _PLAIN:
        return nn.Identity()
    if type(norm).__name__ in ("BatchNormAct2d", "SyncBatchNormAct"):  # timm's
        return nn.Sequential(norm.drop, norm.act)
    return None
