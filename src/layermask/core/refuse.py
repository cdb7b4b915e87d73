"""Calls that no rule answers: the error names the function, the module and the line, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from layermask._private_torch import is_scripted
from layermask.core.call_site import autograd_function, module_path, user_line
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule

_NUMBERS = """
    __array__ __bool__ __complex__ __contains__ __dlpack__ __float__ __format__ __index__ __int__ __len__
    __reversed__
    _assert _assert_async allclose argwhere equal is_nonzero item masked_select nonzero numpy tolist unique
    _typed_storage as_strided data_ptr is_set_to is_shared resize_ resize_as_ set_ share_memory_ storage
    storage_type untyped_storage
    """.split()
_READ = {getattr(space, name): True for name in _NUMBERS for space in (torch, Tensor) if hasattr(space, name)}
"""They give numbers or memory to Python, or entries whose count depends on them."""

_KEEP_THE_MASK = (
    "It takes numbers or memory out of a masked value, whose mask would be lost. Use torch operations in its "
    "place, as torch.where, or read .value and .visible. For hooks that call numpy, as those of "
    "pytorch-grad-cam, there is layermask.adapters.CamModel."
)
GIVE_THE_MODULE = (
    "Scripted, traced and quantised models run where no rule is seen: give the nn.Module that they were made "
    "of, or use a removal that paints, as Greyout."
)
_BELOW = (
    "It was called below torch's Python functions, where no rule is seen, as torch.tensor, torch.vmap, "
    "scripted functions and C++ do. Use torch functions on the value itself, or a removal that paints, as "
    "Greyout."
)
_FUNCTION = (
    "torch.autograd.Function takes plain tensors only: the gradient would be lost silently.",
    "Use torch operations; for checkpoints, use_reentrant=False.",
)


def no_rule(function: Callable) -> NoReturn:
    """Raise what fits a function that has none."""
    if torch.compiler.is_compiling():  # the stack cannot be read while it is traced
        raise NoMaskRule(getattr(function, "__name__", "a function"))
    name, place = name_of(function), (module_path(), user_line())
    if is_scripted(function) or name.startswith(("quantized.", "torch.quantize_")):
        raise NoMaskRule(
            "a scripted model" if is_scripted(function) else name, *place, advice=GIVE_THE_MODULE
        )
    raise NoMaskRule(name, *place, advice=_KEEP_THE_MASK if function in _READ else "")


def below(cls: type, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> NoReturn:
    """`__torch_dispatch__`: what asks C++ for the memory of a `MaskedTensor`, which has none."""
    raise NoMaskRule(name_of(function), module_path(), user_line(), advice=_BELOW)


def lost_gradient() -> None:
    """Raise if an `autograd.Function` is being applied: no torch hook sees it happen."""
    if name := autograd_function():
        raise NoMaskRule(f"{name}.apply", module_path(), user_line(), *_FUNCTION)
