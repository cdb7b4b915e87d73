"""What does not depend on hidden content: sizes and types, and plain tensors made in a value's likeness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.core.call_site import module_path, user_line
from layermask.core.masked import Masked, determined, replace_masked
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule

_ASKED = """
    size dim ndimension stride numel nelement element_size get_device is_contiguous is_floating_point
    is_complex is_signed is_inference is_pinned is_same_size storage_offset has_names
    """.split()
_LIKENESS = """
    new_empty new_full new_ones new_zeros empty_like full_like ones_like rand_like
    randint_like randn_like zeros_like result_type
    """.split()


def of_the_value(function: Callable) -> Callable:
    """The plain answer of `function` about the value's shape, dtype or device."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        return function(*replace_masked(args, lambda x: x.value), **replace_masked(kwargs, lambda x: x.value))

    return rule


for name in (*_ASKED, *_LIKENESS):
    for function in dict.fromkeys(getattr(space, name) for space in (torch, Tensor) if hasattr(space, name)):
        rule(function)(of_the_value(function))


@rule(Tensor.tolist)
def tolist(input: Masked) -> Any:
    """Counts, one per image, by which a model splits a batch: they do not rest on hidden content."""
    if input.value.is_floating_point() or not determined(input, ()):
        why = "Only whole numbers that have no positions can become Python's."
        raise NoMaskRule("torch.Tensor.tolist", module_path(), user_line(), why)
    return input.value.tolist()


@rule(Tensor.new_tensor)
def new_tensor(input: Any, data: Any, **options: Any) -> Any:
    """A copy of `data`, which keeps its mask."""
    plain = input.value if isinstance(input, Masked) else input
    if not isinstance(data, Masked):
        return plain.new_tensor(data, **options)
    value = data.value.detach().clone()
    like = {"dtype": plain.dtype, "device": plain.device, **options}
    wants_gradient = like.pop("requires_grad", False)
    return Masked(value.to(**like).requires_grad_(wants_gradient), data.visible.to(like["device"]))
