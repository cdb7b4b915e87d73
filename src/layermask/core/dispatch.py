"""One call of a torch function on `Masked` arguments: its pass, its rule, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import identities, is_readable, operator_name, same_storage, writes_so_far
from layermask.core.aten import call_of
from layermask.core.call_site import module_path, user_line
from layermask.core.forward_pass import ForwardPass
from layermask.core.likeness import adopted
from layermask.core.masked import Masked, has_positions, is_plain, masked_in, replace_masked, zero_hidden
from layermask.core.per_image import may_pass, passed
from layermask.core.refuse import lost_gradient, no_rule
from layermask.core.rule_table import BUILT_IN, OPERATORS, RULES, name_of, overrides
from layermask.errors import InputError, LostMask, NoMaskRule


def rule_for(forward_pass: ForwardPass, function: Callable) -> Callable | None:
    """The rule in force: of the model, of a block of `overriding`, or of the table; None if there is none."""
    for rules in (forward_pass.rules, *overrides(), *forward_pass.overrides):
        if function in rules:
            return rules[function]
    return RULES.get(function) or OPERATORS.get(operator_name(function))


def dispatch(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Apply the rule of `function` to arguments of which at least one is `Masked`."""
    inputs = masked_in(args, kwargs)
    forward_pass = _enter(inputs)
    if forward_pass.ended:
        return function(*replace_masked(args, zero_hidden), **replace_masked(kwargs, zero_hidden))
    if "out" in kwargs and (target := kwargs.pop("out")) is not None:
        return _into_out(target, function, args, kwargs, forward_pass)
    if writes(function) and args and not isinstance(args[0], Masked):
        _adopt(args[0], function, forward_pass)
        inputs = masked_in(args, kwargs)
    _refuse_lost_gradient(forward_pass, inputs)
    if forward_pass.watch is not None:
        return _watched(forward_pass, function, args, kwargs)
    options = {str(NUMPY_NAMES.get(name, name)): option for name, option in kwargs.items()}
    if (
        forward_pass.sparse_engine is not None
        and (out := forward_pass.sparse_engine(forward_pass, function, args, options)) is not NotImplemented
    ):
        return replace_masked(out, lambda x: _in_pass(x, forward_pass))
    body = rule_for(forward_pass, function)
    if body is None:
        if (known := call_of(function, args, kwargs)) is not None:  # an operator of aten
            return dispatch(*known)
        if writes(function) or not may_pass(function, inputs):
            return no_rule(function)
        body = partial(passed, function)
    ours, masked_first = BUILT_IN.get(function, (None, False))
    if body is ours and masked_first:
        _refuse_other_argument(function, args, options)
    out = body(*args, **(options if body is ours else kwargs))
    cut = any(x.cut for x in inputs)
    for x in masked_in(out):
        x = _in_pass(x, forward_pass)
        x.cut |= cut and not has_positions(x)
        x.part_of_rows |= x.softmax_axis is not None and any(_leaves_out(y, x.softmax_axis) for y in inputs)
        x.aliased |= body is not ours  # a rule of the user may keep what it gives
        _note_sharing(x, inputs)
    return out


def _into_out(target: Any, function: Callable, args: tuple, kwargs: dict, forward_pass: ForwardPass) -> Any:
    """The target of a call with `out=`, which takes the mask of what is written."""
    if not isinstance(target, Masked):
        _adopt(target, function, forward_pass)
    answer = function(*args, **kwargs)
    if not isinstance(answer, Tensor) or answer.shape != target.shape:
        raise NoMaskRule(name_of(function), module_path(), user_line(), "Its out= has another shape.")
    return target.copy_(answer)


def _watched(forward_pass: ForwardPass, function: Callable, args: tuple, kwargs: dict) -> Any:
    """What the watcher of the pass answers; it does not see what rules call of one another."""
    watch, forward_pass.watch = forward_pass.watch, None
    try:
        out = watch(function, args, kwargs, lambda: dispatch(function, args, kwargs))  # type: ignore[misc]  # not None
    finally:
        forward_pass.watch = watch
    for x in masked_in(out):
        x.forward_pass = forward_pass
    return out


def _in_pass(x: Masked, forward_pass: ForwardPass) -> Masked:
    x.forward_pass, x.made = forward_pass, x.present_value
    return x


NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # which torch takes as well


def _enter(inputs: list[Masked]) -> ForwardPass:
    """The run of the inputs. One that has none comes from outside, where its value is held too."""
    forward_pass = next((x.forward_pass for x in inputs if x.forward_pass is not None), None) or ForwardPass(
        masks=_masks(inputs), outside=True
    )
    compiling = torch.compiler.is_compiling()  # in-place rules assume sharing there
    for x in inputs:
        if not compiling:
            x.aliased |= x.forward_pass is None or x.made is not x.present_value
            _refuse_changed_mask(forward_pass, x.visible)
        x.forward_pass = forward_pass
    return forward_pass


def _refuse_changed_mask(forward_pass: ForwardPass, visible: Tensor) -> None:
    """Masks are shared by values, and what was derived of them is kept, so nobody may write to one."""
    written = writes_so_far(visible)
    seen = forward_pass.memo.setdefault(
        ("written", *identities(visible)), (written, visible, _copied_where_uncounted(visible))
    )
    if seen[0] != written:
        raise _changed_mask(visible)


def _copied_where_uncounted(visible: Tensor) -> Tensor | None:
    """A copy of a mask of inference mode, where torch does not count writes."""
    return visible.clone() if visible.is_inference() and is_readable(visible) else None


def refuse_changed_masks(forward_pass: ForwardPass) -> None:
    """The same at the end of a pass for masks of inference mode.

    Raises:
        InputError: a mask was written to in place.
    """
    for key, kept in forward_pass.memo.items():
        if key[0] == "written" and kept[2] is not None and not torch.equal(kept[1], kept[2]):
            raise _changed_mask(kept[1])


def _changed_mask(visible: Tensor) -> InputError:
    return InputError(
        f"a mask of shape {tuple(visible.shape)} was changed in place, and other values share it: give "
        "the value another mask, as x.visible = x.visible & shown."
    )


def _masks(inputs: list[Masked]) -> int | None:
    return next((x.visible.shape[0] for x in inputs if x.visible.ndim), None)


def _note_sharing(out: Masked, inputs: list[Masked]) -> None:
    if torch.compiler.is_compiling():  # in-place rules assume sharing there
        return
    for x in inputs:
        if x is not out and same_storage(x.value, out.value):
            x.aliased = out.aliased = True


def _leaves_out(x: Masked, kept: Tensor) -> bool:
    """Whether the mark `kept` is of a part of the rows of weights `x` that knew of no mask."""
    if x.softmax_axis is None or x.part_of_rows:
        return x.part_of_rows
    knew = any(m > 1 and n > 1 for m, n in zip(x.softmax_axis.shape, x.visible.shape, strict=True))
    return not knew and x.softmax_axis.numel() > kept.numel()


def _refuse_other_argument(function: Callable, args: tuple, kwargs: dict) -> None:
    """A rule whose first parameter is `Masked` has none for a plain tensor there and a mask elsewhere."""
    if is_plain(args[0] if args else kwargs.get("input")):
        why = "Its first argument is plain, and only that one may be masked."
        raise NoMaskRule(name_of(function), module_path(), user_line(), why)


def _adopt(target: Any, function: Callable, forward_pass: ForwardPass) -> None:
    """Make the target of a write masked. Other tensors than those made for it would lose the mask."""
    if not adopted(target, forward_pass):
        raise LostMask(name_of(function), module_path(), user_line())


def writes(function: Callable) -> bool:
    """Whether a torch function works in place."""
    return function in _WRITING


BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
"""Operators of two operands, which torch.Tensor has as `__add__`, `__radd__` and `__iadd__`."""
INPLACE = frozenset([f"__i{op}__" for op in (*BINARY, "div")] + ["__setitem__"])

_WRITING = {  # found once by name: some compilers cannot follow what is done with names
    getattr(space, name): True
    for space in (Tensor, torch, F)
    for name in dir(space)
    if name in INPLACE or (name.endswith("_") and not name.startswith("_"))
}


def _refuse_lost_gradient(forward_pass: ForwardPass, inputs: list[Masked]) -> None:
    """`autograd.Function.apply` hands a Masked over without a gradient, and no torch hook sees it happen."""
    if torch.compiler.is_compiling() or not forward_pass.grad or torch.is_grad_enabled():
        return
    if any(x.value.requires_grad for x in inputs):
        lost_gradient()
