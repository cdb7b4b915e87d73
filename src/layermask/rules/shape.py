"""Operations that move entries about: the same one on the mask, axes it does not vary along kept at 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import identities
from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import align, axis_of, cached, join, keep_merged, merge, narrow
from layermask.core.masked import Masked, has_positions, zero_hidden
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule

if TYPE_CHECKING:
    from jaxtyping import Shaped


def moved(x: Masked, value: Tensor, move: Callable[[Tensor], Tensor], key: Any = None) -> Masked:
    """`value` with mask and padding moved likewise; the same move of the same mask is made once (`key`)."""
    visible = (
        cached(x.forward_pass, "move", (x.visible,), key, lambda: move(x.visible)) if key else move(x.visible)
    )
    is_padding, softmax_axis = (m if m is None else move(m) for m in (x.is_padding, x.softmax_axis))
    return _noted(x, Masked(value, visible, is_padding=is_padding, softmax_axis=softmax_axis))


def _noted(x: Masked, out: Masked) -> Masked:
    """Note whether a move cut single positions out of a map."""
    out.forward_pass = x.forward_pass
    out.cut = has_positions(x) and not has_positions(out)
    return out


def _same(function: Callable) -> Callable:
    """For moves that treat an axis of size 1 as the mask needs it: the same call on mask and value."""

    def rule(input: Masked, *args: Any, **kwargs: Any) -> Masked:
        key = None if torch.compiler.is_compiling() else (function.__name__, repr(args), repr(kwargs))
        out = moved(
            input, function(input.value, *args, **kwargs), lambda m: function(m, *args, **kwargs), key
        )
        if function.__name__ in _SWAPS and not {0, -input.ndim} & {*args, *kwargs.values()}:
            keep_merged(input.forward_pass, out.visible, input.visible)
        return out

    return rule


_SWAPS = ("transpose", "swapaxes", "swapdims")


def _expanded(function: Callable) -> Callable:
    """For moves that need the mask in full: expand it (a view), move it, narrow it again."""

    def rule(input: Masked, *args: Any, **kwargs: Any) -> Any:
        out = function(input.value, *args, **kwargs)
        parts = [
            _full_move(mark, input, function, args, kwargs)
            for mark in (input.visible, input.is_padding, input.softmax_axis)
        ]
        if isinstance(out, Tensor):
            return _noted(input, _pair(out, *parts))
        every = [part or [None] * len(out) for part in parts]
        return type(out)(_noted(input, _pair(*piece)) for piece in zip(out, *every, strict=True))

    return rule


def _full_move(mark: Tensor | None, x: Masked, function: Callable, args: tuple, kwargs: dict) -> Any:
    return None if mark is None else function(mark.expand(x.value.shape), *args, **kwargs)


def _pair(value: Tensor, *marks: Tensor | None) -> Masked:
    visible, is_padding, softmax_axis = (None if mark is None else narrow(mark) for mark in marks)
    return Masked(value, visible, is_padding=is_padding, softmax_axis=softmax_axis)  # type: ignore[arg-type]  # visible is not None


_SAME = """
    permute transpose swapaxes swapdims movedim moveaxis unsqueeze flip fliplr flipud t adjoint
    """.split()
_EXPANDED = """
    diagonal expand narrow select split split_with_sizes chunk tensor_split hsplit vsplit unbind
    unsafe_chunk
    """.split()
_NAMED = {name: _same for name in _SAME} | {name: _expanded for name in _EXPANDED}
for name, kind in _NAMED.items():
    for function in dict.fromkeys(getattr(space, name) for space in (torch, Tensor) if hasattr(space, name)):
        rule(function)(kind(function))


@rule(torch.roll, Tensor.roll)
def roll(input: Masked, shifts: Any, dims: Any = ()) -> Masked:
    dims = () if dims is None else dims
    value = torch.roll(input.value, shifts, dims)
    if dims == ():  # torch rolls the flattened tensor then
        return moved(input, value, lambda m: torch.roll(m.expand(value.shape), shifts))
    return moved(input, value, lambda m: torch.roll(m, shifts, dims), ("roll", str(shifts), str(dims)))


@rule(torch.rot90, Tensor.rot90)
def rot90(input: Masked, k: int = 1, dims: Sequence[int] = (0, 1)) -> Masked:
    a, b = dims
    turns: list[Callable[[Masked], Masked]] = [
        lambda x: x.clone(),
        lambda x: x.flip(b).transpose(a, b),
        lambda x: x.flip(a, b),
        lambda x: x.flip(a).transpose(a, b),
    ]
    return turns[k % 4](input)


def _to_shape(function: Callable) -> Callable:
    """For reshapes: the new shape is read off the value."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(a.value if isinstance(a, Masked) else a for a in args)
        if not isinstance(input, Masked):  # plain.view_as(masked)
            return function(input, *args, **kwargs)
        if any(isinstance(a, torch.dtype) for a in args):
            raise NoMaskRule("Tensor.view(dtype)", why="Its entries are no longer those of the mask.")
        value = function(input.value, *args, **kwargs)
        old, new = tuple(input.value.shape), tuple(value.shape)
        return moved(input, value, lambda m: _reshaped(input.forward_pass, m, old, new))

    return rule


def _reshaped(
    forward_pass: ForwardPass | None, mark: Tensor, old: tuple[int, ...], new: tuple[int, ...]
) -> Tensor:
    """The mark reshaped, from what it was itself reshaped from, if it was.

    Flattening a map mixes axes along which its mask varies with others. Only the origin tells them apart when
    the map is restored.
    """
    memo = None if forward_pass is None or torch.compiler.is_compiling() else forward_pass.memo
    if memo is not None:
        mark, old, _ = memo.get(("reshaped", *identities(mark), old), (mark, old, None))
    out = cached(forward_pass, "move", (mark,), (old, new), lambda: merge(forward_pass, mark, old, new))
    if memo is not None:
        memo[("reshaped", *identities(out), new)] = mark, old, out
    return out


_RESHAPES = "view reshape flatten unflatten squeeze view_as reshape_as ravel unsqueeze_ squeeze_".split()
for name in _RESHAPES:
    for function in dict.fromkeys(getattr(space, name) for space in (torch, Tensor) if hasattr(space, name)):
        if not name.endswith("_"):
            rule(function)(_to_shape(function))


@rule(Tensor.expand_as)
def expand_as(input: Any, other: Any) -> Any:
    return input.expand(other.shape) if isinstance(input, Masked) else input.expand_as(other.value)


@rule(Tensor.repeat)
def repeat(input: Masked, *sizes: Any) -> Masked:
    sizes = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list, torch.Size)) else sizes
    move = lambda m: _repeated(m, input.value.ndim, sizes)  # noqa: E731
    return moved(input, input.value.repeat(sizes), move)


def _repeated(mask: Tensor, ndim: int, sizes: Sequence[int]) -> Tensor:
    """Repeats along axes that do not vary need no copies."""
    mask = align(mask, max(ndim, len(sizes)))
    return mask.repeat([1 if n == 1 else s for n, s in zip(mask.shape, sizes, strict=True)])


@rule(torch.tile, Tensor.tile)
def tile(input: Masked, *dims: Any) -> Masked:
    dims = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return repeat(input, *((1,) * (input.value.ndim - len(dims)) + dims))


@rule(torch.repeat_interleave, Tensor.repeat_interleave)
def repeat_interleave(
    input: Masked, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Masked:
    if dim is None:
        input, dim = input.flatten(), 0
    value = input.value.repeat_interleave(repeats, dim, output_size=output_size)
    move = lambda m: m if m.shape[dim] == 1 else m.repeat_interleave(repeats, dim, output_size=output_size)  # noqa: E731
    return moved(input, value, move)


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(tensors: Sequence[Any], dim: int = 0, *, how: Any = None) -> Masked:
    """Along an axis of positions the masks are laid end to end; along any other (channels) they join.

    `how` is the join, that of the run if None.
    """
    if any(t.ndim != 1 for t in tensors):  # torch lets empty vectors stand in for nothing
        tensors = [t for t in tensors if tuple(t.shape) != (0,)]
    values = [t.value if isinstance(t, Masked) else t for t in tensors]
    inputs = [t for t in tensors if isinstance(t, Masked)]
    if not inputs:
        return Masked(torch.cat(values, dim), values[0].new_ones([1] * values[0].ndim, dtype=torch.bool))
    ndim = inputs[0].value.ndim
    dim = axis_of(dim, ndim)
    if _laid_end_to_end(tensors, inputs, dim):
        visible = _end_to_end(tensors, dim, lambda t: t.visible, True)
        framed = any(t.is_padding is not None for t in inputs)
        is_padding = _end_to_end(tensors, dim, lambda t: t.is_padding, False) if framed else None
        return Masked(torch.cat(values, dim), visible, is_padding=is_padding)
    visible, is_padding, chosen = join(inputs, ndim, how)
    if any(x.is_padding is not None and x.is_padding.shape[dim] != 1 for x in inputs):
        is_padding = None  # padding of single channels: from here on visible like any other entry
    return Masked(torch.cat(_swapped(tensors, inputs, chosen), dim), visible, is_padding=is_padding)


def _laid_end_to_end(tensors: Sequence[Any], inputs: Sequence[Masked], dim: int) -> bool:
    """Some mask varies along the axis, some operand is a single position, or all are phases of one grid."""
    if dim == 0 or any(x.visible.shape[dim] != 1 or _is_column(x, dim) for x in inputs):
        return True
    if all(x.strided_slice for x in inputs) and len(inputs) == len(tensors):
        return True
    if dim == 1 and inputs[0].value.ndim == 4 and any(x.visible.shape[-1] != 1 for x in inputs):
        return False  # a map of one channel (N, 1, H, W)
    return len(inputs) < len(tensors) and any(x.value.shape[dim] == 1 for x in inputs)


def _end_to_end(tensors: Sequence[Any], dim: int, part: Callable, plain: bool) -> Tensor:
    masks = [part(t) if isinstance(t, Masked) else None for t in tensors]
    first = masks[0]
    if first is not None and first.shape[dim] == 1 and all(mask is first for mask in masks):
        return first  # the same for all, so it does not vary along the axis
    masks = [_all(t, plain) if m is None else m for t, m in zip(tensors, masks, strict=True)]
    sizes = list(zip(*(m.shape for m in masks), strict=True))
    shape = [max(each) if all(each) else 0 for each in sizes]  # torch joins what is empty, too
    full = [
        m.expand([t.shape[d] if d == dim else n for d, n in enumerate(shape)])
        for m, t in zip(masks, tensors, strict=True)
    ]
    return torch.cat(full, dim)


def _all(t: Any, plain: bool) -> Tensor:
    return torch.full([1] * t.ndim, plain, device=t.value.device if isinstance(t, Masked) else t.device)


@rule(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> Masked:
    """Maps that are stacked join; images of a batch, single positions, and slices keep each its own mask.

    Slices are of maps (N, C, *S) that are stacked along a new axis of S, but for the last: there and along
    channels, models stack branches of a network.
    """
    ndim = tensors[0].ndim + 1
    parts = [t.unsqueeze(dim) for t in tensors]
    if dim in (0, -ndim):
        return cat(parts)
    inputs = [t for t in parts if isinstance(t, Masked)]
    axis = dim % ndim
    slices = 2 <= axis < ndim - 1 and all(x.visible.shape[1] == 1 for x in inputs)
    if slices or all(n == 1 for t in tensors if isinstance(t, Masked) for n in t.visible.shape[1:]):
        return Masked(
            torch.cat([p.value if isinstance(p, Masked) else p for p in parts], axis),
            _end_to_end(parts, axis, lambda t: t.visible, True),
        )
    visible, is_padding, chosen = join(inputs, ndim)
    return Masked(torch.cat(_swapped(parts, inputs, chosen), axis), visible, is_padding=is_padding)


def _swapped(tensors: Sequence[Any], inputs: Sequence[Masked], values: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, with these values in the place of the masked ones."""
    swap: dict[int, Any] = dict(zip(identities(*inputs), values, strict=True))
    return [swap.get(number, t) for number, t in zip(identities(*tensors), tensors, strict=True)]


@rule(F.pad, torch.constant_pad_nd)
def pad(input: Masked, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Masked:
    """Padded constants are visible and framed; reflected, replicated and wrapped cells are copies."""
    if isinstance(mode, (int, float)):  # constant_pad_nd(input, pad, value)
        mode, value = "constant", mode
    out = F.pad(input.value, pad, mode, value)
    if not any(pad):
        return moved(input, out, lambda m: m)
    pads = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]  # from the last axis on
    size = [n if _laid_out(input, d) else 1 for d, n in enumerate(input.value.shape)]
    flat = [n for i, p in enumerate(pads) for n in (p if _laid_out(input, -1 - i) else (0, 0))]
    softmax_axis = _padded_softmax_axis(input, out, mode == "constant" and not value)
    if not any(flat):
        return _noted(
            input, Masked(out, input.visible, is_padding=input.is_padding, softmax_axis=softmax_axis)
        )
    visible, old = (
        m.expand([max(k, n) for k, n in zip(m.shape, size, strict=True)])
        for m in (
            input.visible,
            torch.zeros_like(input.visible) if input.is_padding is None else input.is_padding,
        )
    )
    framed = (mode == "constant" and any(n > 0 for n in flat)) or input.is_padding is not None
    is_padding = _padded(old, flat, mode, True) if framed else None
    return _noted(
        input,
        Masked(out, _padded(visible, flat, mode, True), is_padding=is_padding, softmax_axis=softmax_axis),
    )


def _padded_softmax_axis(x: Masked, out: Tensor, zeros: bool) -> Tensor | None:
    """The mark of softmax weights behind padding: zeros keep their sum, and anything else does not."""
    if x.softmax_axis is None:
        return None
    marked = [n != 1 for n in x.softmax_axis.shape]
    longer = any(m and new > old for m, new, old in zip(marked, out.shape, x.value.shape, strict=True))
    if longer and not zeros:
        return None
    size = [n if m else 1 for m, n in zip(marked, out.shape, strict=True)]
    return torch.ones(size, dtype=torch.bool, device=out.device)


def _laid_out(x: Masked, axis: int) -> bool:
    """Whether the mask tells the cells along an axis apart, of which a map may have a single one there."""
    if x.visible.shape[axis] != 1 or (x.is_padding is not None and x.is_padding.shape[axis] != 1):
        return True
    single = axis % x.value.ndim >= 2 and x.visible.shape[1] == x.value.shape[axis] == 1
    return single or _is_column(x, axis % x.value.ndim)


def _is_column(x: Masked, axis: int) -> bool:
    """Whether a map (N, C, *S) is alike along an axis of S and varies along another."""
    return axis >= 2 and x.visible.shape[1] == 1 and any(n != 1 for n in x.visible.shape[2:])


def _padded(mask: Tensor, pads: list[int], mode: str, value: bool) -> Tensor:
    while len(pads) > 2 and mode != "constant" and len(pads) // 2 > mask.ndim - 1:
        pads = pads[:-2]
    if mode == "constant":
        return F.pad(mask, pads, value=value)
    return F.pad(mask.to(torch.float32), pads, mode=mode) > 0


@rule(F.pixel_shuffle)
def pixel_shuffle(
    input: Shaped[Masked, "*B C H W"], upscale_factor: int
) -> Shaped[Masked, "*B D {upscale_factor}*H {upscale_factor}*W"]:
    def move(mask: Tensor) -> Tensor:
        if mask.shape[-3] != 1:
            return F.pixel_shuffle(mask.expand(input.value.shape), upscale_factor)
        for axis in (-2, -1):
            mask = mask if mask.shape[axis] == 1 else mask.repeat_interleave(upscale_factor, axis)
        return mask

    return moved(input, F.pixel_shuffle(input.value, upscale_factor), move)


@rule(F.pixel_unshuffle)
def pixel_unshuffle(
    input: Shaped[Masked, "*B C H W"], downscale_factor: int
) -> Shaped[Masked, "*B C*{downscale_factor}**2 H//{downscale_factor} W//{downscale_factor}"]:
    """Each channel of the result holds one phase of the grid, under its own mask."""
    move = lambda m: F.pixel_unshuffle(m.expand(input.value.shape), downscale_factor)  # noqa: E731
    return moved(input, F.pixel_unshuffle(input.value, downscale_factor), move)


@rule(F.channel_shuffle)
def channel_shuffle(input: Shaped[Masked, "N C *S"], groups: int) -> Shaped[Masked, "N C *S"]:
    move = lambda m: m if m.shape[1] == 1 else F.channel_shuffle(m.expand(input.value.shape), groups)  # noqa: E731
    return moved(input, F.channel_shuffle(input.value, groups), move)


@rule(Tensor.unfold)
def sliding(input: Masked, dimension: int, size: int, step: int) -> Shaped[Masked, "*T {size}"]:
    def move(mask: Tensor) -> Tensor:
        whole = mask.ndim == 0 or mask.shape[dimension] == 1
        return mask[..., None] if whole else mask.unfold(dimension, size, step)

    return moved(input, input.value.unfold(dimension, size, step), move)


@rule(F.unfold)
def unfold(
    input: Shaped[Masked, "*B C H W"],
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Shaped[Masked, "*B K L"]:
    """Every entry of a column keeps its own mask; padded cells are visible, as any padding."""
    if input.ndim == 3:
        return F.unfold(input[None], kernel_size, dilation, padding, stride)[0]  # type: ignore[arg-type]
    args = (kernel_size, dilation, 0, stride)
    pads = (padding, padding) if isinstance(padding, int) else padding
    x = pad(input, (pads[1], pads[1], pads[0], pads[0])) if any(pads) else input
    channels = x.value.shape[1]

    def move(mask: Tensor) -> Tensor:
        if mask.shape[1:] == (1, 1, 1):
            return mask.reshape(-1, 1, 1)
        full = mask.expand(-1, -1, *x.value.shape[2:]).to(torch.float32)
        columns = F.unfold(full, *args) > 0  # (N, 1 or C times kernel cells, windows)
        return columns if mask.shape[1] == channels else columns.repeat(1, channels, 1)

    return moved(x, F.unfold(x.value, *args), move)


@rule(F.fold)
def fold(
    input: Shaped[Masked, "*B K L"],
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Shaped[Masked, "*B C H W"]:
    """A sum over the columns that cover a cell, rescaled by the visible share of them."""
    if input.ndim == 2:
        return F.fold(input[None], output_size, kernel_size, dilation, padding, stride)[0]  # type: ignore[arg-type]
    geometry = (output_size, kernel_size, dilation, padding, stride)
    value = F.fold(zero_hidden(input), *geometry)

    def covered(mask: Tensor) -> Tensor:
        whole = mask.expand(-1, input.value.shape[1], input.value.shape[2])
        return F.fold(whole.to(torch.float32), *geometry)

    image = torch.ones_like(input.visible[:1]) if input.is_padding is None else ~input.is_padding
    seen, total = covered(input.visible), covered(torch.ones_like(image[:1]))
    share = torch.where((seen > 0) & (seen < total), seen / total.clamp(min=1), 1.0).to(value.dtype)
    missed = covered(image) == 0
    visible = (covered(input.visible & image) > 0) | missed
    if value.shape[1] != 1 and input.visible.shape[1] == image.shape[1] == 1:
        visible, missed = visible[:, :1], missed[:, :1]
    return _noted(input, Masked(value / share, visible, is_padding=missed))
