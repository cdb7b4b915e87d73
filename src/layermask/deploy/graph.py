"""Reading and changing the graph of an exported program, node by node."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from layermask._private_torch import OpOverload, returns_views, written_arguments

aten = torch.ops.aten
FILLED: dict[Any, int] = {aten.new_ones.default: 1, aten.ones_like.default: 1, aten.new_zeros.default: 0}
"""Operations that read nothing of their argument but dtype, device and shape -> what their result holds."""


def unguarded(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph module without its checks of input shapes, which later passes would keep."""
    has_guards = "check_guards" in inspect.signature(program.module).parameters  # not in torch 2.6
    graph = program.module(**({"check_guards": False} if has_guards else {}))
    assert isinstance(graph, fx.GraphModule)
    return graph


def calls(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function"]


def attribute(graph: fx.GraphModule, node: fx.Node) -> Any:
    """What a node that names a parameter or buffer stands for."""
    found: Any = graph
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found


def constant_before(graph: fx.GraphModule, node: fx.Node, name: str, value: Tensor) -> fx.Node:
    """A node in front of `node` that stands for a new buffer."""
    graph.register_buffer(name, value.detach())
    with graph.graph.inserting_before(node):
        return graph.graph.get_attr(name)


def replace(graph: fx.GraphModule, node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)


def is_random(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def touched_in_place(graph: fx.GraphModule) -> set[fx.Node]:
    """The results of in-place operations, what these write into, and everything computed from either."""
    found: set[fx.Node] = set()
    for node in calls(graph):
        for written in _written_by(node):
            found |= {node, *_viewed_by(written)}
    for node in graph.graph.nodes:
        if node.target not in FILLED and any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def _written_by(node: fx.Node) -> list[fx.Node]:
    if not isinstance(node.target, OpOverload):
        return []
    arguments = written_arguments(node.target)
    both = [*zip(arguments, node.args, strict=False), *((a, node.kwargs.get(a[0])) for a in arguments)]
    return [x for (_, written), x in both if written and isinstance(x, fx.Node)]


def _viewed_by(node: fx.Node) -> list[fx.Node]:
    """The node, and what it is a view of, and so on."""
    found = [node]
    while _is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
        found.append(node)
    return found


def _is_view(node: fx.Node) -> bool:
    if isinstance(node.target, OpOverload):
        return returns_views(node.target)
    return node.op == "call_function"  # an entry of a list of views, perhaps
