"""How far a written file is from the model that it was made of."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.deploy.formats import FORMATS, Runner, format_of, leaves
from layermask.deploy.program import as_removal
from layermask.errors import InputError


@checked(path=kinds.path, format=kinds.optional(kinds.text))
def load(path: str | Path, format: str | None = None) -> Runner:
    """What runs a file on the CPU: (images (N, C, *S), visible (N, 1, *S) bool) -> its outputs, in order.

    Raises:
        InputError: there is no such format, by `format` or by the name of the file.
        MissingPackage: onnxruntime is not installed.
    """
    return FORMATS[format_of(path, format)].load(Path(path))


@checked(run=partial(kinds.function, inputs=2), model=kinds.model, images=kinds.images)
def difference(run: Runner, model: nn.Module, images: Tensor, visible: Tensor) -> float:
    """The largest difference between what `run` and the model answer, relative where answers exceed 1.

    Raises:
        InputError: the two answer with different shapes.
    """
    with torch.no_grad():
        wanted = leaves(as_removal(model)(images, visible))
    found = run(images, visible)
    shapes = [[tuple(x.shape) for x in part] for part in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the file answers with the shapes {shapes[0]}, the model with {shapes[1]}")
    gaps = [(a - b).abs() / b.abs().clamp(min=1) for a, b in zip(found, wanted, strict=True)]
    return max(float(gap.max()) for gap in gaps)
