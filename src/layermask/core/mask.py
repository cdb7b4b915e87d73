"""The algebra of `visible`: how masks join, grow through windows, reshape and are counted.

A mask is bool and has size 1 along every axis it does not vary along, so most of them are N x 1 x H x W.
Masks derived from the same masks are derived once per pass (`cached`), and a mask known to contain another
(a grown one contains its origin) joins with it for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import identities
from layermask.core.forward_pass import ForwardPass
from layermask.core.masked import Masked, has_positions, merged, settings_of, zero_hidden
from layermask.core.settings import JOINS


def cached(
    forward_pass: ForwardPass | None,
    name: str,
    masks: tuple[Tensor, ...],
    params: Any,
    compute: Callable[[], Any],
) -> Any:
    """`compute()`, or what it gave for the same masks and params earlier in this run."""
    if forward_pass is None:
        return compute()
    if torch.compiler.is_compiling():
        return _derive_traced(forward_pass, (name, params), masks, compute)
    key = (name, *identities(*masks), params)
    if key not in forward_pass.memo:
        forward_pass.memo[key] = (
            compute(),
            masks,
        )  # the masks are kept, so that no other tensor gets their ids
    return forward_pass.memo[key][0]


def _derive_traced(
    forward_pass: ForwardPass, key: tuple, masks: tuple[Tensor, ...], compute: Callable[[], Any]
) -> Any:
    """The same where tensors have no ids yet: they are compared one by one."""
    found = forward_pass.traced(key, masks)
    if found is None:
        found = compute()
        forward_pass.memo.setdefault("traced", []).append((key, masks, found))
    return found


def axis_of(dim: int, ndim: int) -> int:
    """`dim` counted from the first axis.

    Raises:
        IndexError: there is no such axis.
    """
    if not -ndim <= dim < ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], but got {dim})"
        )
    return dim % ndim


def varies(visible: Tensor, dims: Sequence[int]) -> list[int]:
    """Those of `dims` (any sign) along which the mask varies, as non-negative axes."""
    return [d % visible.ndim for d in dims if visible.shape[d] != 1]


def weighs(x: Masked, dims: Sequence[int]) -> bool:
    """Whether the entries are softmax weights along one of `dims`."""
    return x.softmax_axis is not None and any(x.softmax_axis.shape[d] != 1 for d in dims)


def align(visible: Tensor, ndim: int) -> Tensor:
    """The mask with leading axes of size 1 added, as broadcasting does."""
    return visible if visible.ndim == ndim else visible.reshape((1,) * (ndim - visible.ndim) + visible.shape)


def narrow(visible: Tensor) -> Tensor:
    """Each axis that was only expanded (stride 0) back to size 1."""
    for axis, (size, stride) in enumerate(zip(visible.shape, visible.stride(), strict=True)):
        if size > 1 and stride == 0:
            visible = visible.narrow(axis, 0, 1)
    return visible


def any_over(forward_pass: ForwardPass | None, visible: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    """Whether anything is visible along `dims`."""
    dims = tuple(sorted(d % visible.ndim for d in dims))

    def compute() -> Tensor:
        reduce = [d for d in dims if visible.shape[d] != 1]
        out = visible.any(dim=reduce, keepdim=True) if reduce else visible
        out = out if keepdim else out.reshape([n for d, n in enumerate(out.shape) if d not in dims])
        if dims[:1] != (0,):
            keep_merged(forward_pass, out, visible)
        return _contains(forward_pass, out, visible) if keepdim else out

    return cached(forward_pass, "any", (visible,), (dims, keepdim), compute)


def _contains(forward_pass: ForwardPass | None, larger: Tensor, smaller: Tensor) -> Tensor:
    if forward_pass is not None and larger is not smaller:
        forward_pass.remember("contains", larger, smaller)
    return larger


def _is_within(forward_pass: ForwardPass | None, smaller: Tensor, larger: Tensor | None) -> bool:
    """Whether `larger` is known to have grown out of `smaller`."""
    while forward_pass is not None and larger is not None and larger is not smaller:
        larger = forward_pass.remembered("contains", larger)
    return larger is smaller


def keep_merged(forward_pass: ForwardPass | None, out: Tensor, *masks: Tensor) -> Tensor:
    """`out`, made of the masks entry by entry along the first axis, known to be as they are there."""
    rows = [mask for mask in masks if mask.ndim == out.ndim and mask.shape[:1] not in ((), (1,))]
    counts = {merged(forward_pass, mask) for mask in rows}
    if forward_pass is not None and len(counts) == 1 and (count := counts.pop()) > 1:
        forward_pass.remember("merged", out, count)
    return out


def intersection(forward_pass: ForwardPass | None, a: Tensor, b: Tensor) -> Tensor:
    """Where both are visible (the paper's residual rule)."""
    if _is_within(forward_pass, a, b):
        return a
    if _is_within(forward_pass, b, a):
        return b
    if not torch.compiler.is_compiling() and identities(a) > identities(b):
        a, b = b, a
    return cached(forward_pass, "and", (a, b), None, lambda: keep_merged(forward_pass, a & b, a, b))


def union(forward_pass: ForwardPass | None, *masks: Tensor) -> Tensor:
    """Where any is visible (the released code in SqueezeNet)."""
    out = masks[0]
    for mask in masks[1:]:
        out = out | mask
    return out


def majority(forward_pass: ForwardPass | None, *masks: Tensor) -> Tensor:
    """Where more than half are visible (the released code in DenseNet)."""
    votes = sum((mask.to(torch.int16) for mask in masks[1:]), masks[0].to(torch.int16))
    return 2 * votes > len(masks)


def _intersection(forward_pass: ForwardPass | None, *masks: Tensor) -> Tensor:
    out = masks[0]
    for mask in masks[1:]:
        out = intersection(forward_pass, out, mask)
    return out


_JOINS: dict[str, Callable[..., Tensor]] = dict(zip(JOINS, (_intersection, majority, union), strict=True))
"""How the masks of operands that meet become one: name -> join(run, *masks)."""


def join(inputs: Sequence[Masked], ndim: int, how: Any = None) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The joined mask and padding of operands that meet entry by entry, and their values.

    Under a join other than the intersection a hidden operand counts as zero.
    """
    forward_pass, how = inputs[0].forward_pass, how or settings_of(inputs[0]).join
    masks = list(dict.fromkeys(align(x.visible, ndim) for x in inputs))
    values = [x.value for x in inputs]
    if len(masks) == 1:
        return masks[0], _joined_padding(inputs, ndim), values
    if how != "intersection":
        masks, values = [align(x.visible, ndim) for x in inputs], [zero_hidden(x) for x in inputs]
    combine: Callable = how if callable(how) else _JOINS[how]
    visible, is_padding = combine(forward_pass, *masks), _joined_padding(inputs, ndim)
    return visible, None if is_padding is None else is_padding & visible, values


def _joined_padding(inputs: Sequence[Masked], ndim: int) -> Tensor | None:
    """Padding where it meets padding, or what is the same for all positions (a gate)."""
    maps = [x for x in inputs if has_positions(x)] or inputs
    if any(x.is_padding is None for x in maps):
        return None
    out = align(maps[0].is_padding, ndim)  # type: ignore[arg-type]  # none is None here
    for x in maps[1:]:
        out = out & align(x.is_padding, ndim)  # type: ignore[arg-type]
    return out


def share(visible: Tensor, dims: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The visible fraction along `dims` (kept as size 1), exactly 1 where all is visible or nothing is."""
    dims = varies(visible, dims)
    if not dims or not visible.numel():
        return visible.new_ones((), dtype=dtype)
    total = math.prod([visible.shape[d] for d in dims])
    # float32 at least: half cannot count the pixels of a map
    wide = torch.promote_types(dtype, torch.float32)
    count = visible.sum(dim=dims, keepdim=True)
    return (torch.where(count == 0, total, count).to(wide) / total).to(dtype)


def reshape(visible: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """The mask of a value reshaped from `old` to `new`, as narrow as the shapes alone can tell.

    Both shapes split into groups of axes of equal size. Within a group, axes after the last one that varies
    are dropped, and stay 1 in the new shape as far as its axes split there too.
    """
    if 0 in old:
        return visible.new_zeros([1] * len(new))
    taken, expanded, final = [], [], []
    for mine, theirs in _groups(list(old), list(new)):
        cut = max([mine.start, *(d + 1 for d in mine if visible.shape[d] != 1)]) - mine.start
        sizes, targets = [old[d] for d in mine], [new[d] for d in theirs]
        varied = math.prod(sizes[:cut])
        split = next(j for j in range(len(targets) + 1) if math.prod(targets[:j]) % varied == 0)
        taken += [*(visible.shape[d] for d in mine[:cut]), 1]
        expanded += [*sizes[:cut], math.prod(targets[:split]) // varied]
        final += targets[:split] + [1] * (len(targets) - split)
    return visible.reshape(taken).expand(expanded).reshape(final)


def merge(
    forward_pass: ForwardPass | None, visible: Tensor, old: Sequence[int], new: Sequence[int]
) -> Tensor:
    """The same, of a mask of which it may be known that each image has several equal entries in front.

    So heads that were merged with the images for one product part again, and their masks do not vary.
    """
    if forward_pass is None or 0 in old or not (old and new):
        return reshape(visible, old, new)
    mine, theirs = _groups(list(old), list(new))[0]
    count = merged(forward_pass, visible)
    if count > 1 and len(mine) == 1 < len(theirs) and count % (parted := old[0] // new[0]) == 0:
        rest = new[len(theirs) :]
        out = reshape(visible[::parted], (new[0], *old[1:]), (new[0], *rest))
        return out.reshape(new[0], *[1] * (len(theirs) - 1), *out.shape[1:])
    out = reshape(visible, old, new)
    whole = len(theirs) == 1 and visible.shape[0] != 1 and all(visible.shape[d] == 1 for d in mine[1:])
    if whole and (count > 1 or len(mine) > 1):
        forward_pass.remember("merged", out, count * (new[0] // old[0]))
    return out


def _groups(old: list[int], new: list[int]) -> list[tuple[range, range]]:
    """Pairs of index ranges (old axes, new axes) of equal product, as short as possible."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        i0, j0, a, b = i, j, 1, 1
        if i < len(old) and old[i] == 1:
            i += 1
        elif j < len(new) and new[j] == 1:
            j += 1
        else:
            a, i, b, j = old[i], i + 1, new[j], j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        groups.append((range(i0, i), range(j0, j)))
    return groups
