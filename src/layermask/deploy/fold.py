"""Folding an exported graph for inference: what depends on weights alone is computed once.

torch folds modules (`torch.nn.utils.fusion`), and has no public pass for exported graphs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.deploy.graph import (
    FILLED,
    attribute,
    calls,
    constant_before,
    is_random,
    replace,
    touched_in_place,
    unguarded,
)
from layermask.deploy.norms import fold_graph_norms

aten = torch.ops.aten


@checked(program=partial(kinds.instance, kind=ExportedProgram))
def fold(program: ExportedProgram) -> nn.Module:
    """The program as a module for inference, of fewer operations, that answers the same up to rounding.

    Batch norm in evaluation becomes part of the layer before it, what is computed from weights alone is
    computed now, and what is computed twice, as most masks are, is computed once. The module holds copies
    of the weights: the model is neither kept nor changed.
    """
    graph = unguarded(program)
    for change in (_drop_checks, _merge_equals, _evaluate_constants, fold_graph_norms):
        change(graph)
        graph.graph.eliminate_dead_code()
    held = {str(node.target): attribute(graph, node) for node in graph.graph.nodes if node.op == "get_attr"}
    copies = {n: v.detach().clone() if isinstance(v, Tensor) else v for n, v in held.items()}
    return fx.GraphModule(copies, graph.graph, "Folded")


def _drop_checks(graph: fx.GraphModule) -> None:
    """Remove assertions about dtypes, and casts to the dtype that is there already."""
    for node in calls(graph):
        if node.target is aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif node.target in (aten.to.dtype, aten.to.dtype_layout) and _changes_nothing(node):
            replace(graph, node, node.all_input_nodes[0])


def _changes_nothing(cast: fx.Node) -> bool:
    before, after = cast.all_input_nodes[0].meta["val"], cast.meta["val"]
    copies = len(cast.args) > 2 or not {"dtype", "device", "layout"}.issuperset(cast.kwargs)
    return before.dtype == after.dtype and before.device == after.device and not copies


def _merge_equals(graph: fx.GraphModule) -> None:
    """Let equal calls on equal inputs be one, in-place operations and all that meets them left out."""
    touched, seen = touched_in_place(graph), {}
    for node in list(graph.graph.nodes):
        if node.op not in ("call_function", "get_attr") or node in touched or is_random(node):
            continue
        key = (node.op, node.target, str(node.args), str(node.kwargs))  # names of nodes are unique
        first = seen.setdefault(key, node)
        if first is not node:
            replace(graph, node, first)


def _evaluate_constants(graph: fx.GraphModule) -> None:
    """Replace what is computed from parameters and buffers alone by its value."""
    touched, values = touched_in_place(graph), {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node] = attribute(graph, node)
        elif node.op == "call_function" and not (node in touched or is_random(node)):
            value = _value(node, values)
            if value is not None:
                values[node] = value
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op == "call_function" and is_read and isinstance(value, Tensor):
            whole = value.clone(memory_format=torch.contiguous_format)
            replace(graph, node, constant_before(graph, node, f"constant_{node.name}", whole))


MOST_EXPANDED = 2**20
"""Entries that a constant may have beyond those it is made of: what is only expanded stays computed."""


def _value(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What the call gives, if that is the same for any input; else None."""
    made = node.meta.get("val")
    if node.target in FILLED and isinstance(made, Tensor) and all(isinstance(n, int) for n in made.shape):
        return torch.full(tuple(made.shape), FILLED[node.target], dtype=made.dtype, device=made.device)
    inputs = node.all_input_nodes
    if any(argument not in values for argument in inputs):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # type: ignore[misc]  # a pair
    with torch.no_grad():
        value = node.target(*args, **kwargs)  # type: ignore[operator]  # of a call_function
    held = sum(values[argument].numel() for argument in inputs if isinstance(values[argument], Tensor))
    return None if isinstance(value, Tensor) and value.numel() > held + MOST_EXPANDED else value
