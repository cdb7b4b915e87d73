"""What torch functions do to packed values. What is not here, or not in this form, the dense rule does."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask._private_torch import identities
from layermask.core.dispatch import INPLACE
from layermask.core.forward_pass import Run
from layermask.core.mask import any_over
from layermask.core.masked import Masked
from layermask.core.rule_table import RULES
from layermask.core.window import Window, grow
from layermask.kernels.activation import Activation
from layermask.rules.convolve import conv_window, filled
from layermask.rules.pointwise import functions
from layermask.rules.pool import pool_window
from layermask.rules.shape import pad as padding_rule
from layermask.sparse import ops as kernels
from layermask.sparse.active import sites_of
from layermask.sparse.graph import (
    Affine,
    Cat,
    Conv,
    End,
    Gate,
    Given,
    LayerNorm,
    MaxPool,
    MeanPool,
    Node,
    Pointwise,
    Slice,
    Stem,
    Sum,
)
from layermask.sparse.operands import NoRows, PerImage, joined, meet
from layermask.sparse.plan import FAR
from layermask.sparse.value import ORDERS, Packed, Padded
from layermask.sparse.weights import Captured, Norm, Scale

PACKED: dict[Callable, tuple[Callable, Callable | None]] = {}
"""torch function -> its packed form, and the dense rule it stands for (none other may have replaced that)."""

FEW_CHANNELS = 8  # of an image


def packed(*functions_: Callable) -> Callable[[Callable], Callable]:
    """Register the packed form of functions; it takes their parameters, and raises NoRows to decline."""

    def register(body: Callable) -> Callable:
        for function in functions_:
            PACKED[function] = (body, RULES.get(function))
        return body

    return register


def require(*conditions: bool) -> None:
    if not all(conditions):
        raise NoRows


def rows_of(x: Any, order: str | None = "first") -> Node:
    """The node of a packed value in that order (None: any)."""
    require(type(x) is Packed, getattr(x, "node", None) is not None)
    require(x.frame is None, x.weights is None, order is None or x.order == order)
    return x.node


def captured(run: Run, *weights: Tensor | None) -> Captured:
    """Weights as they are now, for an operator that may be computed later."""
    return run.packing.prepared.capture(*weights)


def constant(kind: Tensor, *tensors: Tensor | None) -> None:
    """Decline weights that are differentiated, of a subclass, or not of the dtype and device of `kind`."""
    dtype, device, differentiable = kind.dtype, kind.device, torch.is_grad_enabled()
    for t in tensors:
        if t is None:
            continue
        if type(t) not in (Tensor, nn.Parameter) or t.dtype is not dtype or t.device != device:
            raise NoRows
        if t.layout is not torch.strided or (differentiable and t.requires_grad):
            raise NoRows


@packed(F.conv2d, torch.conv2d)
def conv2d(
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Packed:
    require(isinstance(input, Masked))
    node = input.node if isinstance(input, Packed) else None
    constant(input.value if node is None else node.kind, weight, bias)
    shape = input.shape
    require(len(shape) == weight.ndim == 4, groups > 0)
    require(len(weight) % groups == 0, _is_vector(bias, len(weight)))
    require(node is None or input.order == "first", shape[1] == weight.shape[1] * groups)
    window = _window(tuple(weight.shape), _fixed(stride), _fixed(padding), _fixed(dilation))
    require(_fits(weight, groups, window), window.has_output(shape[2:]))
    if node is None:
        return _entering(input, window, weight, bias, groups)
    visible = _grown(input, window)
    if isinstance(input, Padded):
        require(not window.pointlike)
        window = _widened(window, input.pads)
    last = input.strided_last or _strided_last(weight)
    return Packed(Conv(node, visible, window, captured(node.run, weight, bias), groups), strided_last=last)


@functools.lru_cache(maxsize=1024)
def _window(shape: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> Window:
    """The same window for the same layer in every pass: it remembers what was asked of it."""
    same = padding == "same" and stride in (1, (1,), (1, 1))
    require(_plausible(stride, 1), _plausible(dilation, 1))
    require(same or padding == "valid" or _plausible(padding, 0))
    return conv_window(torch.empty(shape, device="meta"), stride, padding, dilation)


def _plausible(sizes: Any, least: int) -> bool:
    """Whether torch takes these sizes along two axes."""
    each = sizes if isinstance(sizes, tuple) else (sizes,)
    return len(each) in (1, 2) and all(isinstance(size, int) and size >= least for size in each)


def _fixed(sizes: Any) -> Any:
    return tuple(sizes) if isinstance(sizes, list) else sizes


def _is_vector(x: Tensor | None, size: int) -> bool:
    """Whether there are so many numbers, or none are given. Else the dense rule raises the error of torch."""
    return x is None or x.shape == (size,)


def _grown(x: Masked, window: Window) -> Tensor:
    """The mask behind a window op; declines where a window lies in padding alone, or one cell is left."""
    visible, frame = grow(x, window)
    require(frame is None or not bool(frame.any()), visible[0, 0].numel() > 1)
    return visible


def _fits(weight: Tensor, groups: int, window: Window) -> bool:
    """Groups of few channels are left to the dense engine, but for one channel each."""
    depthwise = weight.shape[1] == 1 and groups == len(weight) and not window.pointlike
    return max(window.reach) < FAR and (groups == 1 or depthwise or weight.shape[1] >= FEW_CHANNELS)


def _widened(window: Window, pads: tuple[int, int, int, int]) -> Window:
    left, right, top, bottom = pads
    before = (window.before[0] + top, window.before[1] + left)
    after = (window.after[0] + bottom, window.after[1] + right)
    return dataclasses.replace(window, before=before, after=after)


def _strided_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _entering(x: Masked, window: Window, weight: Tensor, bias: Tensor | None, groups: int) -> Packed:
    """From here on only what is visible is computed."""
    value, run = x.value, x.run
    require(run is not None and run.packing.takes(value), x.weights is None)
    assert run is not None
    require(x.visible.shape[1] == 1, x.visible.shape[2:] == value.shape[2:], math.prod(value.shape[2:]) > 1)
    visible = _grown(x, window)
    run.rows = True
    last = _strided_last(value) or _strided_last(weight)
    if value.shape[1] <= FEW_CHANNELS and groups == 1 and window.dilation[1] == 1:
        node: Node = Stem(run, filled(x, window), visible, window, captured(run, weight, bias))
    else:
        require(x.frame is None)
        given = Given(run, x.visible, value)
        node = Conv(given, visible, window, captured(run, weight, bias), groups)
    return Packed(node, strided_last=last)


@packed(F.linear)
def linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Packed:
    node = rows_of(input, "last")
    constant(node.kind, weight, bias)
    require(weight.ndim == 2, weight.shape[1] == node.channels, _is_vector(bias, len(weight)))
    point = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))
    conv = Conv(node, node.mask, point, captured(node.run, weight, bias))
    return Packed(conv, "last", strided_last=True)  # torch lays the result out in this order


@packed(F.batch_norm, torch.batch_norm)
def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Packed:
    node = rows_of(input)
    vectors = (running_mean, running_var, weight, bias)
    constant(node.kind, *vectors)
    require(not training, running_mean is not None, running_var is not None, momentum is not None)
    require(all(_is_vector(vector, node.channels) for vector in vectors))
    norm = Norm(captured(node.run, *vectors), eps)
    return Packed(Affine(node, norm), strided_last=input.strided_last)


@packed(F.layer_norm, torch.layer_norm)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Packed:
    node = rows_of(input, "last")
    constant(node.kind, weight, bias)
    require(tuple(normalized_shape) == (node.channels,))
    require(_is_vector(weight, node.channels), _is_vector(bias, node.channels))
    weight, bias = (x if x is None else x.detach().clone() for x in (weight, bias))  # computed later
    return Packed(LayerNorm(node, weight, bias, eps), "last", strided_last=True)  # as linear's


@packed(F.max_pool2d, torch.max_pool2d)
def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Packed:
    node = rows_of(input)
    require(not return_indices, node.run.settings.pool in (None, "nothing"))
    window = pool_window(input, 2, kernel_size, stride, padding, dilation, ceil_mode)
    require(all(0 <= 2 * b <= k for b, k in zip(window.before, window.kernel, strict=True)))
    visible = _grown(input, window)
    return Packed(MaxPool(node, visible, window), strided_last=input.strided_last)


@packed(F.avg_pool2d)
def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    node = rows_of(input)
    window = pool_window(input, 2, kernel_size, stride, padding, 1, False)
    require(not any(window.before), divisor_override is None)
    if window.kernel == tuple(node.mask.shape[2:]):
        return _global_mean(node, (2, 3), True)
    require(not ceil_mode or pool_window(input, 2, kernel_size, stride, padding, 1, True) == window)
    require(max(window.reach) < FAR)
    visible = _grown(input, window)
    return Packed(MeanPool(node, visible, window), strided_last=input.strided_last)


@packed(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Masked:
    require(output_size in (1, (1, 1), [1, 1]), output_size is not True)
    return _global_mean(rows_of(input), (2, 3), True)


@packed(torch.mean, Tensor.mean)
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Masked:
    require(dtype is None, dim is not None)
    return _global_mean(rows_of(input, None), _spatial(input, dim), keepdim)


def _spatial(x: Packed, dim: Any) -> tuple[int, ...]:
    """The axes `dim`, which are to be those of all positions."""
    given = [dim] if isinstance(dim, int) else dim
    require(all(-4 <= d < 4 for d in given))
    dims = tuple(sorted(d % 4 for d in given))
    require(dims == tuple(ORDERS[x.order].index(axis) for axis in (2, 3)))
    return dims


def _same(x: Tensor) -> Tensor:
    return x


def _global_mean(
    node: Node,
    dims: tuple[int, ...],
    keepdim: bool,
    before: Callable[[Tensor], Tensor] = _same,
    behind: Callable[[Tensor], Tensor] = _same,
) -> Masked:
    """Over what is visible (section 3.2, h_m)."""
    sites = sites_of(node.run, node.mask, node.batch)
    value = behind(kernels.image_means(before(node.at(node.mask)), sites.begins, sites.images))
    visible = any_over(node.run, node.mask, (2, 3), True)
    shape = list(value.shape)
    for axis in dims if keepdim else ():
        shape.insert(axis, 1)
    value = value.to(node.kind.dtype).reshape(shape)
    return Masked(value, visible.reshape([len(visible)] + [1] * (len(shape) - 1)))


@packed(torch.permute, Tensor.permute)
def permute(input: Any, *dims: Any) -> Packed:
    node = rows_of(input, None)
    given = dims[0] if len(dims) == 1 else dims
    require(all(-4 <= d < 4 for d in given))
    order = tuple(d % 4 for d in given)
    axes_now = tuple(ORDERS[input.order][d] for d in order)
    names = {axes: name for name, axes in ORDERS.items()}
    require(axes_now in names)
    return input.add_view(node, 0, node.channels, names[axes_now])


@packed(torch.cat, torch.concat, torch.concatenate)
def cat(tensors: Sequence[Any], dim: int = 0) -> Packed:
    require(dim in (1, -3), any(type(t) is Packed for t in tensors))
    nodes = [rows_of(t) for t in tensors]
    require(len({(n.batch, n.mask.shape[2:], n.kind.dtype) for n in nodes}) == 1)
    mask = joined(nodes[0].run, [node.mask for node in nodes])
    return Packed(Cat(mask, *nodes), strided_last=all(t.strided_last for t in tensors))


def _sliced(x: Packed, begin: int, end: int) -> Packed:
    node = rows_of(x)
    return x.add_view(Slice(node, begin, end), begin, end, "first")


@packed(Tensor.__getitem__)
def getitem(input: Any, index: Any) -> Packed:
    """A slice of channels, x[:, begin:end]."""
    node = rows_of(input)
    index = index if isinstance(index, tuple) else (index,)
    require(1 < len(index) <= 4)
    require(all(i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in (index[0], *index[2:])))
    require(index[0] is not Ellipsis, isinstance(index[1], slice))
    begin, end, step = index[1].indices(node.channels)
    require(step == 1, begin < end)
    return _sliced(input, begin, end)


@packed(torch.split, Tensor.split, torch.functional.split)
def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Packed, ...]:
    node, sizes = rows_of(tensor), split_size_or_sections
    require(dim in (1, -3))
    if isinstance(sizes, int):
        require(sizes > 0)
        sizes = [min(sizes, node.channels - begin) for begin in range(0, node.channels, sizes)]
    require(sum(sizes) == node.channels, min(sizes) > 0)
    ends = list(itertools.accumulate(sizes))
    return tuple(_sliced(tensor, end - size, end) for size, end in zip(sizes, ends, strict=True))


@packed(torch.chunk, Tensor.chunk)
def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Packed, ...]:
    node = rows_of(input)
    require(chunks > 0)
    return split(input, -(-node.channels // chunks), dim)


@packed(torch.norm, Tensor.norm, torch.functional.norm)
def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Masked:
    """The length of each channel over all positions (global response normalisation)."""
    node = rows_of(input, None)
    require(p in (2, 2.0, "fro"), dtype is None, dim is not None)
    size = math.prod(node.mask.shape[2:])
    return _global_mean(
        node, _spatial(input, dim), keepdim, lambda x: x.square(), lambda x: (x * size).sqrt()
    )


@packed(F.pad, torch.constant_pad_nd)
def pad(input: Any, pad: Sequence[int], mode: Any = "constant", value: float | None = None) -> Packed:
    if isinstance(mode, (int, float)):
        mode, value = "constant", mode
    node = rows_of(input)
    require(len(pad) == 4, mode == "constant", not value, min(pad) >= 0, any(pad))
    flat = node.mask.new_empty(1).expand(node.batch, 1, *node.mask.shape[2:])
    shell = Masked(flat, node.mask)
    shell.run = node.run
    left, right, top, bottom = pad
    return Padded(input, (left, right, top, bottom), padding_rule(shell, pad))


def _metadata(name: str) -> None:
    function = getattr(Tensor, name)

    @packed(function)
    def answer(input: Any, *args: Any) -> Any:
        require(isinstance(input, Packed), getattr(input, "node", None) is not None)
        return function(torch.empty(input.shape, dtype=input.dtype, device="meta"), *args)


for name in "size dim ndimension numel nelement is_floating_point is_complex".split():
    _metadata(name)


def _ended(x: Any, end: Activation, in_place: bool) -> Packed:
    return _replaced(x, End(rows_of(x, None), end), in_place)


def _replaced(x: Packed, node: Node, in_place: bool) -> Packed:
    if not in_place:
        return Packed(node, x.order, x.strided_last)
    require(not x.seen_by_others)
    return x.replace_node(node)


RELU = Activation("clamp", 0.0, math.inf)


@packed(F.relu, torch.relu, Tensor.relu)
def relu(input: Any, inplace: bool = False) -> Packed:
    return _ended(input, RELU, inplace)


@packed(torch.relu_, Tensor.relu_)
def relu_(input: Any) -> Packed:
    return _ended(input, RELU, True)


@packed(F.relu6)
def relu6(input: Any, inplace: bool = False) -> Packed:
    return _ended(input, Activation("clamp", 0.0, 6.0), inplace)


@packed(F.hardtanh)
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Packed:
    require(min_val <= max_val)
    return _ended(input, Activation("clamp", float(min_val), float(max_val)), inplace)


@packed(F.leaky_relu)
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Packed:
    return _ended(input, Activation("leaky_relu", float(negative_slope)), inplace)


@packed(F.gelu)
def gelu(input: Any, approximate: str = "none") -> Packed:
    require(approximate == "none")
    return _ended(input, Activation("gelu"), False)


@packed(torch.sigmoid, Tensor.sigmoid)
def sigmoid(input: Any) -> Packed:
    return _ended(input, Activation("sigmoid"), False)


def _named(function: Callable) -> None:
    @packed(function)
    def activation(input: Any, inplace: bool = False) -> Packed:
        return _ended(input, Activation(function.__name__), inplace)


for function in (F.silu, F.hardsigmoid, F.hardswish):
    _named(function)


@packed(F.dropout, F.dropout2d, torch.dropout)
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Packed:
    rows_of(input, None)
    require(not training, 0 <= p <= 1)
    return input


@packed(Tensor.contiguous)
def contiguous(input: Any, memory_format: torch.memory_format = torch.contiguous_format) -> Packed:
    rows_of(input)
    require(input.strided_last == (memory_format is torch.channels_last))
    return input


_ENTRYWISE = frozenset(
    """
    silu gelu hardswish hardsigmoid sigmoid tanh leaky_relu elu selu celu mish softplus softsign logsigmoid
    exp expm1 log1p logit neg abs sqrt rsqrt square reciprocal pow maximum minimum clamp
    clamp_min clamp_max add sub rsub mul div truediv true_divide radd rmul rtruediv iadd isub imul
    itruediv multiply divide subtract addcmul addcdiv lerp
    """.split()
)
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}


def _entrywise(function: Callable, in_place: bool) -> Callable:
    apart = _out_of_place(function) if in_place else function

    def rule(*args: Any, **kwargs: Any) -> Packed:
        in_place_now = in_place or bool(kwargs.pop("inplace", False))
        operands = [a for a in args if isinstance(a, (Masked, Tensor))]
        inputs = [a for a in operands if isinstance(a, Packed)]
        require(bool(inputs), not any(isinstance(v, (Masked, Tensor)) for v in kwargs.values()))
        require(not in_place_now or operands[0] is inputs[0])
        node = _met(apart, args, kwargs, inputs)
        return _replaced(inputs[0], node, in_place_now)

    return rule


def _met(function: Callable, args: tuple, kwargs: dict, inputs: list[Packed]) -> Node:
    require(all(isinstance(a, (Masked, Tensor, int, float)) for a in args))
    others = [a for a in args if isinstance(a, (Masked, Tensor)) and not isinstance(a, Packed)]
    mask, forms = meet(inputs, others)
    form_of = dict(zip(identities(*others), forms, strict=True))
    parts = [a.node if isinstance(a, Packed) else form_of.get(identities(a)[0], a) for a in args]
    nodes = [part for part in parts if isinstance(part, Node)]
    channels = max(node.channels for node in nodes)
    require(nodes[0].channels == channels)
    if function in _SUMS and not kwargs and len(nodes) == 2 and nodes[1].channels == channels:
        return Sum(mask, *nodes)
    if function in _PRODUCTS and len(args) == 2 and len(nodes) == 1:
        (other,) = (part for part in parts if part is not nodes[0])
        if isinstance(other, PerImage) and other.vectors.shape[1] == channels:
            if other.parameter is not None and len(other.vectors) == 1:
                return Affine(nodes[0], Scale(captured(nodes[0].run, other.parameter)))
            return Gate(nodes[0], mask, other.vectors)

    def apply(mask: Tensor, *rows: Tensor) -> Tensor:
        left = iter(rows)
        given = [
            next(left) if isinstance(part, Node) else part(mask) if callable(part) else part for part in parts
        ]
        return function(*given, **kwargs)

    return Pointwise(apply, mask, *nodes)


def _out_of_place(function: Callable) -> Callable:
    name = function.__name__
    apart = f"__{name[3:]}" if name in INPLACE else name[:-1]
    return next(getattr(space, apart) for space in (Tensor, torch, F) if hasattr(space, apart))


for function, in_place in functions():
    stem = function.__name__.strip("_")
    if stem in _ENTRYWISE and function not in PACKED:
        packed(function)(_entrywise(function, in_place))
