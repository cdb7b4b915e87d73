"""A model under a removal as a graph of torch operations, with nothing of this library in it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.core.inputs import check_inputs
from layermask.deploy.fold import fold as folded
from layermask.errors import InputError
from layermask.removal.gaps import NaNHidden
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.registry import REMOVALS

MOST_IMAGES = 2**31 - 1  # images in a batch: torch 2.6 finds sizes without a bound to violate what it assumes


@checked(model=kinds.model, images=kinds.images, dynamic_batch=kinds.flag, fold=kinds.flag)
def export(
    model: nn.Module, images: Tensor, visible: Tensor, dynamic_batch: bool = True, fold: bool = True
) -> ExportedProgram:
    """The graph of `model(images, visible)`, which takes both with one batch size.

    Args:
        model: a removal operator, or a model, which is then put under `LayerMasking`. In eval mode.
        images: (N, C, *S), an example; all but N is fixed in the graph.
        visible: (N or 1, 1, *S), True = visible.
        dynamic_batch: whether the graph takes any batch size, or that of the example.
        fold: whether batch norm and constants are folded (`deploy.fold`).

    Raises:
        InputError: the model is in training mode, or the removal is one that does not export
            (`layermask.removal.REMOVALS` says which do).
        TypeError, ValueError: as `LayerMasking.forward`.
        NoMaskRule: as `LayerMasking.forward`.
    """
    removal = as_removal(model)
    refuse_training(removal)
    _refuse_fills(removal)
    hides_nan = any(isinstance(module, NaNHidden) for module in removal.modules())
    visible = check_inputs(images.nan_to_num() if hides_nan else images, visible)
    example = _example(images, visible, dynamic_batch)
    program = traced(removal, example, dynamic_batch)
    return traced(folded(program), example, dynamic_batch) if fold else program


def as_removal(model: nn.Module) -> nn.Module:
    """The module itself if it takes `visible`, else its layer masking."""
    return model if "visible" in inspect.signature(model.forward).parameters else LayerMasking(model)


def refuse_training(removal: nn.Module) -> None:
    training = [name or "the model" for name, module in removal.named_modules() if module.training]
    if training:
        raise InputError(f"{training[0]} is in training mode: call .eval() on what is to be exported.")


def _refuse_fills(removal: nn.Module) -> None:
    """Refuse a removal whose paint is no graph of torch operations."""
    for module in removal.modules():
        if not getattr(getattr(module, "fill", None), "exports", True):
            can = sorted({entry.operator for entry in REMOVALS.values() if entry.exports})
            raise InputError(f"{type(module).__name__} does not export: {', '.join(can)} do.")


def _example(images: Tensor, visible: Tensor, dynamic_batch: bool) -> tuple[Tensor, Tensor]:
    """Both of one batch size; of at least 2 if any is wanted, as a size of 1 would be taken for fixed."""
    batch = max(len(images), len(visible), 2 if dynamic_batch else 1)
    images, visible = (x.expand(batch, *x.shape[1:]).contiguous() for x in (images, visible))
    return images, visible


def traced(module: nn.Module, example: Any, dynamic_batch: bool) -> ExportedProgram:
    """The program of a module of two inputs, without notes on where its operations came from."""
    batch = {0: Dim("batch", max=MOST_IMAGES)} if dynamic_batch else None
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=(batch, batch), strict=False)
    _forget_whereabouts(program)
    return program


def _forget_whereabouts(program: ExportedProgram) -> None:
    """Drop where each operation came from: files of the graph would name paths of this machine."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack"):
            node.meta.pop(key, None)
