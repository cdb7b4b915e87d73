"""The kernels as operators of torch: `torch.ops.layermask.affine` and so on, with schemas and fake forms.

Our own calls go to `Kernels` at once, which checks the same and saves the way through torch's dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layermask.kernels.compile import check_side_by_side
from layermask.kernels.loader import kernels_status, library
from layermask.kernels.signatures import SIGNATURES, checked

SCHEMAS = {
    **{name: signature.schema for name, signature in SIGNATURES.items()},
    "side_by_side": "(Tensor[] sources, Tensor?[] ats, Tensor? scale, Tensor? shift, Tensor(out!) out, "
    "int how, float a, float b) -> ()",
    "checksum": "(Tensor[] tensors, Tensor(out!) out) -> ()",
}
"""All kernels. `checksum` writes its hash into `out`, (1,) int64."""


def define(
    name: str, schema: str, key: str, function: Callable, fake: Callable, tags: Sequence[torch.Tag] = ()
) -> None:
    """Register `layermask::name` once per process: a module that is loaded again keeps what is there."""
    if hasattr(torch.ops.layermask, name):
        return
    whole = f"layermask::{name}"
    torch.library.define(whole, schema, tags=tags)
    torch.library.impl(whole, key, function)
    torch.library.register_fake(whole, fake)


def _call(name: str) -> Callable[..., None]:
    def call(*args: Any) -> None:
        if (kernels := library()) is None:
            raise RuntimeError(f"layermask::{name} needs the compiled kernels; {kernels_status()}")
        getattr(kernels, name)(*args)

    return call


def _hash(tensors: Sequence[Tensor], out: Tensor) -> None:
    _check_hash(tensors, out)
    if (kernels := library()) is None:
        raise RuntimeError(f"layermask::checksum needs the compiled kernels; {kernels_status()}")
    found = kernels.checksum(tensors)
    out.fill_(found - (found >> 63 << 64))  # as int64


def _check_hash(tensors: Sequence[Tensor], out: Tensor) -> None:
    if out.shape != (1,) or out.dtype is not torch.int64:
        raise RuntimeError(
            f"layermask::checksum needs out (1,) of int64, not {tuple(out.shape)} of {out.dtype}"
        )


for _name, _signature in SIGNATURES.items():
    define(_name, _signature.schema, "CPU", _call(_name), checked(_signature))
define("side_by_side", SCHEMAS["side_by_side"], "CPU", _call("side_by_side"), check_side_by_side)
define("checksum", SCHEMAS["checksum"], "CPU", _hash, _check_hash)
