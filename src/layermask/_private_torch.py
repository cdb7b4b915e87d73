"""What this package uses of torch that torch does not promise to keep, and what rests on object identity.

Nothing else in the package may name a private part of torch. tests/test_private_torch.py has a test of each
function here, which fails when torch changes what it stands on.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def modes_are_active() -> bool:
    """Whether a `TorchDispatchMode` or a transform of torch.func sees the operators that are called."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()


def is_tracing() -> bool:
    """Whether torch.jit.trace records the operators that are called."""
    return torch._C._is_tracing()


def takes_forward_derivatives() -> bool:
    """Whether a block of `torch.autograd.forward_ad.dual_level` is open."""
    return torch.autograd.forward_ad._current_level >= 0
