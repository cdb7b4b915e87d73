"""Operations on each entry by itself: the mask stays as it is, and the masks of two operands join.

The table is read off PyTorch's own `pointwise` tag; the lists below name what lacks the tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masked import INPLACE, Masked, masked_in, replace_masked, rule
from ..visibility import join, union

_NAMESPACES = (torch, Tensor, F, torch.special)
_NOT_POINTWISE = {"equal", "max", "min", "frexp"}  # tagged for one overload; `reduce` has max and min
_UNTAGGED = """
    absolute alpha_dropout arccos arccosh arcsin arcsinh arctan arctan2 arctanh bernoulli bfloat16 bool
    byte char clamp_max clamp_min conj cpu cuda detach divide double dropout dropout1d dropout2d
    dropout3d fake_quantize feature_alpha_dropout feature_dropout fill fix float fmod gelu greater
    greater_equal half hardswish imag int less less_equal logsigmoid long mish multiply native_dropout
    ndtr negative not_equal pin_memory prelu real relu6 requires_grad resolve_conj resolve_neg rrelu
    short silu softplus softsign subtract tanhshrink threshold to type type_as zero logsigmoid log_ndtr
    log1p expit exponential normal uniform contiguous
    """.split()


def pointwise(function: Callable) -> Callable:
    """The rule of a function that acts on each entry by itself."""

    def rule(*args: Any, **kwargs: Any) -> Masked:
        inputs = list(masked_in((args, kwargs)))
        if len(inputs) == 1:
            value = function(*replace_masked(args, _value), **replace_masked(kwargs, _value))
            return _with_mask_of(inputs[0], value)
        ndim = max(x.value.ndim for x in inputs)
        visible, frame, values = join(inputs, ndim)
        swap = dict(zip(map(id, inputs), values, strict=True))
        value = function(
            *replace_masked(args, lambda x: swap[id(x)]), **replace_masked(kwargs, lambda x: swap[id(x)])
        )
        return Masked(value, _lead(visible, value), frame=frame, weights=_still_weights(function, inputs))

    return rule


def pointwise_in_place(function: Callable) -> Callable:
    """The rule of its in-place form: the target keeps its storage, and takes the joined mask."""
    apply = pointwise(function)

    def rule(*args: Any, **kwargs: Any) -> Masked:
        target = args[0]
        if "other" in kwargs or len(args) > 1:
            target.value = _writable(target)
        out = apply(*args, **kwargs)
        target.value, target.visible, target.frame, target.weights = (
            out.value,
            out.visible,
            out.frame,
            out.weights,
        )
        return target

    return rule


def _value(x: Masked) -> Tensor:
    return x.value


def _writable(x: Masked) -> Tensor:
    """An expanded value (one image under many masks) cannot be written to in place."""
    expanded = any(step == 0 and n != 1 for n, step in zip(x.value.shape, x.value.stride(), strict=True))
    return x.value.clone() if expanded else x.value


def _lead(visible: Tensor, value: Tensor) -> Tensor:
    """Plain operands may have more axes than the masked ones."""
    return visible.reshape((1,) * (value.ndim - visible.ndim) + visible.shape)


def _with_mask_of(x: Masked, value: Any) -> Any:
    frame = x.frame if x.frame is None else _lead(x.frame, value)
    return Masked(value, _lead(x.visible, value), frame=frame, weights=x.weights)


def _still_weights(function: Callable, inputs: list[Masked]) -> bool:
    """Softmax weights times anything stay weighted; a sum stays so only if all of its terms are."""
    scaled = any(word in getattr(function, "__name__", "") for word in ("mul", "div"))
    return any(x.weights for x in inputs) if scaled else all(x.weights for x in inputs)


def _tagged() -> Iterator[str]:
    """Names of aten functions with the pointwise tag."""
    names = {name.strip("_") for space in _NAMESPACES for name in dir(space)}
    for name in names - _NOT_POINTWISE:
        packet = getattr(torch.ops.aten, name, None)
        overloads = getattr(packet, "overloads", list)()
        if any(torch.Tag.pointwise in getattr(packet, o).tags for o in overloads):
            yield name


def _functions() -> Iterator[tuple[Callable, bool]]:
    """Every torch function of a pointwise name, and whether it writes in place."""
    names = {*_tagged(), *_UNTAGGED}
    seen = set()
    for space in _NAMESPACES:
        for name in dir(space):
            function = getattr(space, name)
            if not callable(function) or isinstance(function, type) or function in seen:
                continue
            in_place = name in INPLACE or (name.endswith("_") and not name.startswith("_"))
            if _stem(name, in_place) in names or name in _DUNDER:
                seen.add(function)
                yield function, in_place


_OPERATORS = "add sub mul truediv floordiv mod pow and or xor lshift rshift".split()
_DUNDER = frozenset(
    [f"__{op}__" for op in "eq ne lt le gt ge neg pos abs invert rdiv div".split()]
    + [f"__{side}{op}__" for op in _OPERATORS for side in ("", "r", "i")]
)


def _stem(name: str, in_place: bool) -> str:
    return name[:-1] if in_place and not name.startswith("__") else name


for function, in_place in _functions():
    if function is not Tensor.__setitem__:
        rule(function)(pointwise_in_place(function) if in_place else pointwise(function))


@rule(F.glu)
def glu(input: Any, dim: int = -1) -> Any:
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


@rule(F.local_response_norm)
def local_response_norm(
    input: Masked, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Masked:
    """Reads across channels only, which share a mask."""
    return _with_mask_of(input, F.local_response_norm(_channels_settled(input), size, alpha, beta, k))


def _channels_settled(x: Masked) -> Tensor:
    return x.value if x.visible.shape[1] == 1 else torch.where(x.visible, x.value, 0.0)


__all__ = ["glu", "local_response_norm", "pointwise", "pointwise_in_place", "union"]
