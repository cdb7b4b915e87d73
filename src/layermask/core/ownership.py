"""Whether a rule may write into a value."""

from __future__ import annotations

import torch

from layermask.core.masked import Masked


def exclusively_owned(x: Masked) -> bool:
    """Nothing else holds the value, autograd included, and no two entries share a place.

    A pair that belongs to no run comes from outside, where its value is held too.
    """
    if x.forward_pass is None or x.aliased or torch.is_grad_enabled():
        return False
    return all(step or n == 1 for n, step in zip(x.value.shape, x.value.stride(), strict=True))
