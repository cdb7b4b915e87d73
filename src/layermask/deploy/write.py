"""Files of an exported program: ONNX, and torch's own .pt2."""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.deploy.graph import unguarded
from layermask.deploy.program import export, traced
from layermask.deploy.rings import pool_rings
from layermask.errors import InputError, import_optional
from layermask.io.atomic import write_all

OPSET = 18
"""Of ONNX: the lowest that torch writes without converting, and so the one that most runtimes read."""


_KINDS: dict[str, Any] = {
    "program": partial(kinds.instance, kind=(ExportedProgram, nn.Module)),
    "path": kinds.path,
    "images": kinds.optional(kinds.images),
    "visible": kinds.optional(kinds.mask),
    "fold": kinds.flag,
}


@checked(**_KINDS, opset=partial(kinds.count, high=100))
def to_onnx(
    program: ExportedProgram | nn.Module,
    path: str | Path,
    images: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    fold: bool = True,
    opset: int = OPSET,
) -> Path:
    """Write an ONNX file with the inputs "images" (N, C, *S) and "visible" (N, 1, *S) bool; return its path.

    Args:
        program: of `export`; or a removal or model, to be exported with the example `images` and `visible`.
        fold: as in `export`; a program is written as it is.
        opset: version of ONNX's operators.

    Raises:
        MissingPackage: onnx or onnxscript is not installed.
        InputError: the file cannot be written, or torch cannot write this program in this opset.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "onnx")
    program = _with_pools(_program(program, images, visible, fold))
    with warnings.catch_warnings():  # torch's own, about its own code
        warnings.simplefilter("ignore")
        model = _converted(program, opset)
    _check_opset(model, opset)
    _name_batch(model)
    _forget_whereabouts(model)
    write_all({Path(path): model.SerializeToString()})
    return Path(path)


def _converted(program: ExportedProgram, opset: int) -> Any:
    try:
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=["images", "visible"],
            output_names=_output_names(program),
            external_data=False,
        )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200]
        raise InputError(f"torch cannot write this as ONNX: {reason} ... A .pt2 file may do.") from error
    return written.model_proto


def _check_opset(model: Any, opset: int) -> None:
    """Refuse a file of another opset: torch logs that it could not convert it, and goes on."""
    found = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if found != [opset]:
        raise InputError(
            f"opset {opset} was asked for, and torch could write this model in opset {found[0]} only: give "
            f"opset={found[0]}, or no opset"
        )


@checked(**_KINDS)
def to_pt2(
    program: ExportedProgram | nn.Module,
    path: str | Path,
    images: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    fold: bool = True,
) -> Path:
    """Write torch's own file, to be read by `torch.export.load(path).module()`; arguments as of `to_onnx`."""
    content = io.BytesIO()
    torch.export.save(_program(program, images, visible, fold), content)
    write_all({Path(path): content.getvalue()})
    return Path(path)


def _program(
    program: ExportedProgram | nn.Module, images: Tensor | None, visible: Tensor | None, fold: bool
) -> ExportedProgram:
    if isinstance(program, ExportedProgram):
        return program
    if images is None or visible is None:
        raise TypeError(
            "a module is exported with an example: give images and visible, or an ExportedProgram."
        )
    return export(program, images, visible, fold=fold)


def _with_pools(program: ExportedProgram) -> ExportedProgram:
    graph = unguarded(program)
    if not pool_rings(graph) or program.example_inputs is None:
        return program
    return traced(graph, program.example_inputs[0], bool(program.range_constraints))


def _output_names(program: ExportedProgram) -> list[str]:
    count = len(program.graph_signature.user_outputs)
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _name_batch(model: Any) -> None:
    """Give the batch size, which torch numbers as a symbol, its name."""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if symbol and symbol in axis.dim_param:
                axis.dim_param = axis.dim_param.replace(symbol, "batch")


def _forget_whereabouts(model: Any) -> None:
    """Drop torch's notes on where each operation came from."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
