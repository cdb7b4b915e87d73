"""The kinds of file that a program is written to: how each is written, run, and told by its name."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import tree_leaves
from layermask.deploy.write import to_onnx, to_pt2
from layermask.errors import InputError, import_optional
from layermask.io.atomic import read_bytes

Runner = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Format:
    """A kind of file: what writes a program, what loads it to be run, and the packages that both need."""

    write: Callable[..., Path]
    load: Callable[[Path], Runner]
    needs: tuple[str, ...] = ()
    extra: str = ""


def _load_onnx(path: Path) -> Runner:
    runtime = import_optional("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(
        read_bytes(path, "ONNX file"), options, providers=["CPUExecutionProvider"]
    )

    def run(images: Tensor, visible: Tensor) -> list[Tensor]:
        found = session.run(None, {"images": images.numpy(), "visible": visible.numpy()})
        return [torch.from_numpy(array) for array in found]

    return run


def _load_pt2(path: Path) -> Runner:
    module = torch.export.load(io.BytesIO(read_bytes(path, "PyTorch file"))).module()
    return functools.partial(_answer, module)


@torch.no_grad()
def _answer(module: Any, images: Tensor, visible: Tensor) -> list[Tensor]:
    return leaves(module(images, visible))


def leaves(output: object) -> list[Tensor]:
    """The tensors of an output, however it is structured."""
    return [x.detach().cpu() for x in tree_leaves(output) if isinstance(x, Tensor)]


FORMATS: dict[str, Format] = {
    "onnx": Format(to_onnx, _load_onnx, ("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "pt2": Format(to_pt2, _load_pt2),
}


def format_of(path: str | Path, name: str | None = None) -> str:
    """`name`, or the format that the name of the file ends in.

    Raises:
        InputError: there is no such format.
    """
    found = name or Path(path).suffix[1:]
    if found not in FORMATS:
        raise InputError(f"{path} is in no format that is known here: {', '.join(FORMATS)}")
    return found
