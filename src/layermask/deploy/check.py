"""What a written file answers, and how far that is from the model it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from layermask.errors import InputError, require

from .program import as_removal

Answers = Callable[[str | Path, Tensor, Tensor], list[Tensor]]


def answers(path: str | Path, images: Tensor, visible: Tensor) -> list[Tensor]:
    """The outputs of a file on the CPU, in the model's order, for images (N, C, *S) and visible (N, 1, *S).

    Raises:
        InputError: the name of the file ends in neither .onnx nor .pt2.
        MissingPackage: onnxruntime is not installed.
    """
    run = RUNNERS.get(Path(path).suffix)
    if run is None:
        raise InputError(f"{path} is none of the files that can be run: {', '.join(RUNNERS)}")
    return run(path, images, visible)


def _onnx(path: str | Path, images: Tensor, visible: Tensor) -> list[Tensor]:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy(), "visible": visible.numpy()})
    return [torch.from_numpy(array) for array in found]


def _pt2(path: str | Path, images: Tensor, visible: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return _leaves(torch.export.load(path).module()(images, visible))


RUNNERS: dict[str, Answers] = {".onnx": _onnx, ".pt2": _pt2}
"""What runs a file: the end of its name -> run(path, images, visible)."""


def difference(path: str | Path, model: nn.Module, images: Tensor, visible: Tensor) -> float:
    """The largest difference between a file's answers and the model's own, relative where those exceed 1.

    Raises:
        InputError: as `answers`, or the two differ in what they answer.
    """
    with torch.no_grad():
        wanted = _leaves(as_removal(model)(images, visible))
    found = answers(path, images, visible)
    shapes = [[tuple(x.shape) for x in part] for part in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{path} answers with the shapes {shapes[0]}, the model with {shapes[1]}")
    gaps = [(a - b).abs() / b.abs().clamp(min=1) for a, b in zip(found, wanted, strict=True)]
    return max(float(gap.max()) for gap in gaps)


def _leaves(output: object) -> list[Tensor]:
    return [x.detach().cpu() for x in tree_leaves(output) if isinstance(x, Tensor)]
