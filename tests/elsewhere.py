"""A second device, without one: tensors that say they lie there, and hold their values on the CPU.

Within `Elsewhere`, torch works on them as on a GPU's: an operator whose tensors lie on two devices raises,
and what reads a value on the host is counted in `waits`. Unlike torch's fake tensors they have values.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("xla:0")  # what tensors say: torch has it by name, and starts nothing for it
BELOW = torch.device("meta")  # what torch's own C++ takes them for
MOVES = {"_to_copy", "copy_", "copy"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}  # take indices of the CPU
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"}


class There(Tensor):
    """A tensor of the other device. `held`: the same on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=BELOW,
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return THERE

    def tolist(self) -> Any:
        return self.held.tolist()

    # These two are made below dispatch, where they would lose their values.

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return There(self.held.new_tensor(data, **options))

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(i) if isinstance(i, list) else i for i in parts))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} on the other device, outside of `Elsewhere`")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[attr-defined]


class Elsewhere(TorchDispatchMode):
    """The device. `waits`: which operators gave the host a value."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.partition("::")[2]
        there = _is_there(name, args, kwargs)
        if there and name in WAITS:
            self.waits[name] += 1
        if kwargs.get("device") in (THERE, BELOW):
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        return tree_map(_same_or_new((args, kwargs)), out) if there else out


def _is_there(name: str, args: Any, kwargs: Any) -> bool:
    """Whether the operator runs on the other device.

    Raises:
        RuntimeError: its tensors lie on both.
    """
    if kwargs.get("device") is not None:
        return kwargs["device"] in (THERE, BELOW)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if name in MOVES or name in INDEXES:
        return bool(tensors) and isinstance(tensors[0], There)
    found = {isinstance(x, There) for x in tensors if x.ndim or isinstance(x, There)}
    if len(found) == 2:
        raise RuntimeError(f"{name} takes tensors of two devices")
    return found == {True}


def _held(x: Any) -> Any:
    return x.held if isinstance(x, There) else x


def _same_or_new(given: Any) -> Any:
    """What is written in place keeps its identity."""
    known = {id(x.held): x for x in tree_leaves(given) if isinstance(x, There)}
    return lambda x: known.get(id(x), There(x)) if isinstance(x, Tensor) else x


def moved(x: Tensor) -> Tensor:
    return There(x)


def with_tensors(module: nn.Module, change: Any) -> nn.Module:
    """Replace a module's parameters and buffers, in place; gradients are not wanted of them."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = _like(tensor, change(tensor.detach()))
    return module


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
