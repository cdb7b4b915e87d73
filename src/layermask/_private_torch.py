"""What this package uses of torch that torch does not promise to keep, and what rests on object identity.

Nothing else in the package may name a private part of torch or call `id`. tests/test_private_torch.py has a
test of each function here, which fails when torch changes what it stands on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
import torch.utils._pytree
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._python_dispatch import TorchDispatchMode


def same_storage(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are views of one memory. Storages of one memory are different Python objects."""
    try:
        return a.untyped_storage()._cdata == b.untyped_storage()._cdata
    except NotImplementedError:  # under torch.func transforms a tensor does not tell
        return True


def writes_so_far(x: Tensor) -> int:
    """How often torch has written into `x` in place; 0 for inference tensors, of which it keeps no count.

    Writes by numpy and through `.data` are not counted: this tells what one call of torch did, and is no
    means to see whether a tensor is still the same.
    """
    return 0 if x.is_inference() else x._version


def without_memory(cls: type[Tensor]) -> Any:
    """An empty tensor of a class that has `__torch_dispatch__`, to which all goes that C++ does with it.

    It has dims, as C++ takes tensors without any for numbers, and looks for the axes that it is told of.
    """
    return Tensor._make_wrapper_subclass(cls, (0, 0, 0, 0), device="meta")  # type: ignore[attr-defined]


def is_scripted(function: Any) -> bool:
    """Whether it is a function or method that TorchScript runs."""
    return isinstance(function, torch._C.ScriptMethod | torch.jit.ScriptFunction)


def has_backward_hooks(module: torch.nn.Module) -> bool:
    """Whether hooks of `register_full_backward_hook` or its kin wait for gradients of the module."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def buffers_of(module: torch.nn.Module) -> dict[str, Any]:
    """The buffers of a module alone, which may be written to."""
    return module._buffers


def taken_over(x: Tensor, cls: type[Tensor]) -> Tensor:
    """Make the very object `x` a tensor of `cls` that has no memory, and return one with the memory it had.

    Raises:
        ValueError: something else shares that memory, and would not follow.
    """
    if _holders(x) != _holders(torch.empty(1)):
        raise ValueError("something else shares its memory")
    other = without_memory(cls)
    x.__class__, other.__class__ = cls, type(x)
    torch._C._swap_tensor_impl(x, other)
    return other


def _holders(x: Tensor) -> tuple[int, int]:
    """How many tensors share the memory of `x`, and how often its storage is held in Python."""
    storage = x.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


def modes_are_active() -> bool:
    """Whether a `TorchDispatchMode` or a transform of torch.func sees the operators that are called."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()


def is_tracing() -> bool:
    """Whether torch.jit.trace records the operators that are called."""
    return torch._C._is_tracing()


def is_fake(x: Tensor) -> bool:
    """Whether a tensor has a shape and a device, and no values: one of `FakeTensorMode`."""
    return isinstance(x, FakeTensor)


def is_readable(x: Tensor) -> bool:
    """Whether its values can be looked at: no compiler traces it, and it is none of torch's fake tensors.

    Checks of values are left out where they cannot be read.
    """
    return not (torch.compiler.is_compiling() or is_fake(x))


def is_exporting(x: Tensor) -> bool:
    """Whether `torch.export` makes a graph of what is done with `x`."""
    return torch.compiler.is_compiling() and is_fake(x)


@contextlib.contextmanager
def as_constants() -> Iterator[None]:
    """Within the block, `torch.export` notes nothing: tensors made there are constants of its graph."""
    with unset_fake_temporarily(), disable_proxy_modes_tracing():
        yield


def takes_forward_derivatives() -> bool:
    """Whether a block of `torch.autograd.forward_ad.dual_level` is open."""
    return torch.autograd.forward_ad._current_level >= 0


def operator_name(function: Callable) -> str:
    """The name of `torch.ops.<library>.<name>` as "library.name", and "" of any other function."""
    return str(function) if isinstance(function, OpOverloadPacket) else ""


def called_for_lists(name: str) -> Callable:
    """The function that torch's own of that name calls, the only one that sees what is masked in a list."""
    return getattr(torch._VF, name)


ASSERT: Callable = torch._assert
"""What models call so that compilers see an assertion: `ASSERT(condition, message)`."""


def written_arguments(operator: OpOverload) -> list[tuple[str, bool]]:
    """The name of each argument of an aten operator, and whether the operator writes into it."""
    found = operator._schema.arguments
    return [(a.name, a.alias_info is not None and a.alias_info.is_write) for a in found]


def argument_names(operator: OpOverload) -> list[str]:
    """The names of the arguments of an aten operator, in order."""
    return [argument.name for argument in operator._schema.arguments]


def overload_of(operator: Any) -> OpOverload | None:
    """An operator of aten, or the first form of one that is called without naming a form; None for others."""
    if isinstance(operator, OpOverloadPacket):
        operator = getattr(operator, operator.overloads()[0])
    return operator if isinstance(operator, OpOverload) and operator.namespace == "aten" else None


def functions_of_name(name: str) -> Iterator[Callable]:
    """What torch calls by the name of an operator, the functions that it makes of operators first."""
    for space in (torch, Tensor, getattr(torch._C, "_nn", None), torch.nn.functional):
        if hasattr(space, name):
            yield getattr(space, name)


def returns_views(operator: OpOverload) -> bool:
    """Whether a result of an aten operator may share memory with an argument."""
    return any(result.alias_info is not None for result in operator._schema.returns)


def tree_map(change: Callable[[Any], Any], tree: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """`tree` with `change` applied to each leaf of the containers that are registered with torch.

    Libraries register theirs there, as Hugging Face its outputs, and compilers know of it.
    """
    return torch.utils._pytree.tree_map(change, tree, is_leaf=is_leaf)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of the containers that are registered with torch."""
    return torch.utils._pytree.tree_leaves(tree)


def identities(*objects: object) -> tuple[int, ...]:
    """Numbers that tell these objects from all others. Who keeps the numbers must keep the objects."""
    return tuple(map(id, objects))


class MadeFor:
    """What was made for objects that are told apart by identity, as models and masks are; it keeps them."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Any, tuple]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[Any]:
        return (made for made, _ in self._made.values())

    def get(self, objects: tuple, params: Hashable, make: Callable[[], Any]) -> Any:
        """`make()`, or what it gave for the same objects and equal `params` before."""
        key = (params, *identities(*objects))
        if key not in self._made:
            self._made[key] = (make(), objects)
        return self._made[key][0]


class ResultsSeen(TorchDispatchMode):
    """Within the block, `see` is called with every tensor that an operator returns."""

    def __init__(self, see: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.see(x)
        return out
