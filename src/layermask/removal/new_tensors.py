"""Tensors that models of transformers make and write into: they become masked, as those of `new_zeros`.

Elsewhere such a write is refused: a plain tensor may be one that somebody keeps. What is made during a pass
is not, and users cannot write the code of a library anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dis import opmap
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from layermask.core.call_site import code_of
from layermask.core.forward_pass import ForwardPass
from layermask.core.likeness import note
from layermask.core.masked import Masked, is_plain

_MAKERS = {function: function.__name__ for function in (torch.zeros, torch.ones, torch.empty, torch.full)}
_STORES = {opmap[name] for name in ("STORE_SUBSCR", "STORE_SLICE") if name in opmap}


def makes_targets(model: nn.Module) -> bool:
    """Whether some module of transformers makes tensors and writes into parts of them."""
    return any(map(_class_makes_targets, {type(module) for module in model.modules()}))


@functools.cache
def _class_makes_targets(cls: type) -> bool:
    """Both in one function, by its byte code. Where that errs, tensors are watched for nothing."""
    own = [each for each in cls.__mro__ if each.__module__.startswith("transformers.")]
    functions = [f for each in own for f in vars(each).values() if isinstance(f, FunctionType)]
    codes = [code for f in functions if (code := code_of(f)) is not None]
    return any(_STORES & {*code.co_code[::2]} and {*_MAKERS.values()} & {*code.co_names} for code in codes)


class NotingNew(TorchFunctionMode):
    """Within the block, what `torch.zeros` and the like make becomes masked by being written into.

    `forward_pass`: the pass that is told of it; if None, that of the first masked value that is met.
    """

    def __init__(self, forward_pass: ForwardPass | None = None) -> None:
        super().__init__()
        self.forward_pass = forward_pass

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.forward_pass is None and isinstance(out, Masked):
            self.forward_pass = out.forward_pass
        return note(out, self.forward_pass) if func in _MAKERS and is_plain(out) else out
