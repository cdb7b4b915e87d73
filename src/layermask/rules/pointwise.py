"""Operations on each entry by itself: the mask stays as it is, and the masks of two operands join.

The table is read off PyTorch's own `pointwise` tag; the lists below name what lacks the tag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import identities
from layermask.core.dispatch import BINARY, INPLACE
from layermask.core.mask import align, join
from layermask.core.masked import Masked, masked_in, replace_masked, zero_hidden, zero_hidden_pair
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule
from layermask.rules.overwrite import become, overwrite, writable

if TYPE_CHECKING:
    from jaxtyping import Shaped

_NAMESPACES = (torch, Tensor, F, torch.special)
_NOT_POINTWISE = {"equal", "max", "min", "frexp"}  # tagged for one overload; `reduce` has max and min
_DRAWS = {"rrelu", "bernoulli", "normal"}  # what they draw depends on the values: hidden ones are zero
_UNTAGGED = """
    absolute alpha_dropout arccos arccosh arcsin arcsinh arctan arctan2 arctanh bernoulli bfloat16 bool
    byte cauchy char clamp_max clamp_min complex conj contiguous cpu cuda detach divide double dropout
    dropout1d dropout2d dropout3d expit exponential fake_quantize feature_alpha_dropout feature_dropout fill
    fix float floor_divide fmod gelu geometric greater greater_equal half hardswish imag int leaky_relu less
    less_equal log1p log_ndtr log_normal logsigmoid long mish multiply ndtr negative normal
    not_equal pin_memory random real relu6 requires_grad resolve_conj resolve_neg rrelu short silu
    softplus softsign subtract tanhshrink threshold to type type_as uniform zero
    """.split()


def pointwise(function: Callable) -> Callable:
    """The rule of a function that acts on each entry by itself."""

    name = function.__name__.strip("_")
    if name in _LIKENESS:
        return _in_the_likeness(function)
    if name in _DRAWS:
        return _drawn(function)
    keeps = any(word in name for word in _KEEP_WEIGHTS)

    def rule(*args: Any, **kwargs: Any) -> Masked:
        inputs = masked_in(args, kwargs)
        if name in _SINGULAR and _differentiated(inputs):
            args, kwargs = replace_masked(args, _harmless), replace_masked(kwargs, _harmless)
            inputs = masked_in(args, kwargs)
        if len(inputs) == 1:
            value = function(*replace_masked(args, _value), **replace_masked(kwargs, _value))
            if value is NotImplemented:  # torch does not know the other operand, which may know us
                arrays = any(type(each).__name__ == "ndarray" for each in args)
                return rule(*map(_as_tensor, args)) if arrays else value
            softmax_axis = _softmax_axis(inputs, value.ndim) if keeps else None
            if _is_the_same(value, inputs[0]):
                inputs[0].softmax_axis = softmax_axis
                return inputs[0]
            return _with_mask_of(inputs[0], value, softmax_axis)
        ndim = max(x.value.ndim for x in inputs)
        visible, is_padding, values = join(inputs, ndim)
        swap = dict(zip(identities(*inputs), values, strict=True))
        own: Callable = lambda x: swap[identities(x)[0]]  # noqa: E731
        value = function(*replace_masked(args, own), **replace_masked(kwargs, own))
        softmax_axis = _softmax_axis(inputs, value.ndim) if keeps else None
        return Masked(value, align(visible, value.ndim), is_padding=is_padding, softmax_axis=softmax_axis)

    return rule


def _as_tensor(x: Any) -> Any:
    return torch.as_tensor(x) if type(x).__name__ == "ndarray" else x


def _is_the_same(value: Tensor, x: Masked) -> bool:
    """Torch gave back its very argument: it acted in place (`inplace=True`), or had nothing to do."""
    return not torch.compiler.is_compiling() and value is x.value


def _drawn(function: Callable) -> Callable:
    """Draws from values, zero where hidden; what torch writes in place is written into the masked one."""
    parameters = list(inspect.signature(function).parameters) if function is F.rrelu else []

    def rule(*args: Any, **kwargs: Any) -> Masked:
        inputs = masked_in(args, kwargs)
        visible, is_padding, _ = join(inputs, max(x.value.ndim for x in inputs))
        value = function(*replace_masked(args, zero_hidden), **replace_masked(kwargs, zero_hidden))
        out = Masked(value, align(visible, value.ndim), is_padding=is_padding)
        if (dict(zip(parameters, args, strict=False)) | kwargs).get("inplace"):
            return overwrite(inputs[0], value, out)
        return out

    return rule


_LIKENESS = {"to", "type_as"}


def _in_the_likeness(function: Callable) -> Callable:
    """Of another tensor only its dtype and device are read: what is plain stays plain."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = replace_masked(args, _value), replace_masked(kwargs, _value)
        if not isinstance(input, Masked):
            return function(input, *args, **kwargs)
        return _with_mask_of(input, function(input.value, *args, **kwargs), input.softmax_axis)

    return rule


def pointwise_in_place(function: Callable) -> Callable:
    """The rule of its in-place form: the target keeps its storage, and takes the joined mask."""
    apply = pointwise(function)
    draws = function.__name__.strip("_") in _DRAWS

    def rule(target: Masked, *args: Any, **kwargs: Any) -> Masked:
        """Hidden content of other operands stays out of storage that something else may call visible."""
        if target.aliased or torch.compiler.is_compiling():
            zeroed = lambda x: x if x.visible is target.visible else zero_hidden_pair(x)  # noqa: E731
            args, kwargs = replace_masked(args, zeroed), replace_masked(kwargs, zeroed)
        if args or kwargs:
            target.value = writable(target)
        out = apply(target, *args, **kwargs)
        if out is NotImplemented:
            return out
        if draws:  # into a copy
            return overwrite(target, out.value, out)
        return become(target, out)

    return rule


def _value(x: Masked) -> Tensor:
    return x.value


def _differentiated(inputs: list[Masked]) -> bool:
    """Whether a slope at a hidden entry could turn into NaN; what something else may hold is left alone."""
    return torch.is_grad_enabled() and any(x.value.requires_grad for x in inputs) and not inputs[0].aliased


def _harmless(x: Masked) -> Masked:
    """1 at hidden entries: weight gradients sum over them with zero, and 0 times the slope of 0/0 is NaN."""
    out = Masked(
        torch.where(x.visible, x.value, 1), x.visible, is_padding=x.is_padding, softmax_axis=x.softmax_axis
    )
    out.forward_pass = x.forward_pass
    return out


_SINGULAR = frozenset(
    """
    div divide idiv rdiv true_divide truediv rtruediv itruediv floor_divide floordiv fmod remainder reciprocal
    sqrt rsqrt log log2 log10 log1p xlogy pow rpow float_power logit acos asin atanh acosh erfinv
    """.split()
)


def _with_mask_of(x: Masked, value: Tensor, softmax_axis: Tensor | None = None) -> Masked:
    """The mask goes where the value does, to another device or behind more axes, and is itself otherwise."""
    marks = [m if m is None else align(m, value.ndim) for m in (x.visible, x.is_padding, softmax_axis)]
    if x.value.device != value.device:
        marks = [m if m is None else m.to(value.device) for m in marks]
    visible, is_padding, softmax_axis = marks
    return Masked(value, visible, is_padding=is_padding, softmax_axis=softmax_axis)  # type: ignore[arg-type]  # visible is not None


def _softmax_axis(inputs: list[Masked], ndim: int) -> Tensor | None:
    marks = [x.softmax_axis for x in inputs if x.softmax_axis is not None]
    return align(marks[0], ndim) if len(marks) == 1 else None


_KEEP_WEIGHTS = "mul div dropout to type float half double contiguous clone detach".split()
"""Softmax weights scaled, dropped out or cast stay weights; after anything else they are not."""


def _tagged() -> Iterator[str]:
    """Names of aten functions with the pointwise tag."""
    names = {name.strip("_") for space in _NAMESPACES for name in dir(space)}
    for name in names - _NOT_POINTWISE:
        packet = getattr(torch.ops.aten, name, None)
        overloads = getattr(packet, "overloads", list)()
        if any(torch.Tag.pointwise in getattr(packet, o).tags for o in overloads):
            yield name


def functions() -> Iterator[tuple[Callable, bool]]:
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


_DUNDER = frozenset(
    [f"__{op}__" for op in "eq ne lt le gt ge neg pos abs invert rdiv div".split()]
    + [f"__{side}{op}__" for op in BINARY if op != "matmul" for side in ("", "r", "i")]
)


def _stem(name: str, in_place: bool) -> str:
    return name[:-1] if in_place and not name.startswith("__") else name


for function, in_place in functions():
    if function not in (
        Tensor.__setitem__,
        Tensor.detach_,
        torch.detach_,
        torch.where,
    ):  # which have rules of their own
        rule(function)(pointwise_in_place(function) if in_place else pointwise(function))


def _where(choose: Callable) -> Callable:
    def rule(condition: Any, *branches: Any, **named: Any) -> Any:
        """With a condition alone, the places where it is visible and holds, as plain indices."""
        if branches or named:
            return choose(condition, *branches, **named)
        return zero_hidden(condition).nonzero(as_tuple=True)

    return rule


rule(torch.where)(_where(pointwise(torch.where)))


@rule(*dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu)))
def prelu(input: Shaped[Masked, "*S"], weight: Shaped[Any, "*W"]) -> Shaped[Masked, "*S"]:
    """The slope lies along axis 1, so its own mask could not join by broadcasting."""
    if isinstance(weight, Masked):
        raise NoMaskRule("torch.nn.functional.prelu", why="Its weight must be plain.")
    return _with_mask_of(input, F.prelu(input.value, weight))


@rule(F.glu)
def glu(input: Any, dim: int = -1) -> Any:
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


@rule(F.local_response_norm)
def local_response_norm(
    input: Shaped[Masked, "N C *S"], size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Shaped[Masked, "N C *S"]:
    """Reads across channels only, which share a mask."""
    return _with_mask_of(input, F.local_response_norm(_zero_hidden_channels(input), size, alpha, beta, k))


def _zero_hidden_channels(x: Masked) -> Tensor:
    return x.value if x.visible.shape[1] == 1 else torch.where(x.visible, x.value, 0.0)
