"""Plain tensors made in the likeness of a masked value, as by `new_zeros`, which models write results into.

Such a tensor is plain, and all of it visible, until a masked value is written into it. Then it becomes masked
itself, as the same Python object. Tensors that come from elsewhere stay plain: a model may keep them.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import identities, taken_over
from layermask.core.forward_pass import ForwardPass
from layermask.core.masked import MaskedTensor, everywhere, is_plain


def note(made: Tensor, forward_pass: ForwardPass | None) -> Tensor:
    """The same tensor, known to the pass as one that may become masked."""
    if forward_pass is not None and not torch.compiler.is_compiling():
        forward_pass.memo["likeness", identities(made)] = weakref.ref(made)
    return made


def adopted(target: Any, forward_pass: ForwardPass) -> bool:
    """Make a tensor masked that the pass knows, and say whether it was one."""
    if torch.compiler.is_compiling() or not is_plain(target):
        return False
    found = forward_pass.memo.pop(("likeness", identities(target)), None)
    if found is None or found() is not target:
        return False
    del found  # none may have a weak reference to it then
    try:
        value = taken_over(target, MaskedTensor)
    except ValueError:
        return False
    masked: Any = target  # which is one from here on
    masked.__init__(value, everywhere(value))
    masked.forward_pass, masked.made = forward_pass, value
    return True
