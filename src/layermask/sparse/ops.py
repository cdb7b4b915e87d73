"""What is done to rows: kernels in C (float32 on a CPU) or Triton (on a GPU), and twins in torch operators.

The twins do what has no kernel: other types, and machines without a compiler or Triton.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.kernels import Kernels, library, triton
from layermask.kernels.activation import NOTHING, Activation
from layermask.kernels.operands import RowSource, Weights
from layermask.sparse.memory import empty
from layermask.sparse.plan import FillPlan


def compiled(like: Tensor) -> Kernels | None:
    """The compiled kernels, if they take tensors of this kind."""
    return library() if like.dtype is torch.float32 and like.device.type == "cpu" else None


def on_gpu(like: Tensor) -> ModuleType | None:
    """The Triton kernels (kernels/triton/rows.py), if they take tensors of this kind."""
    if like.device.type != "cuda" or not triton.installed():
        return None
    from layermask.kernels.triton import rows

    return rows if rows.takes(like) else None


def to_compute_dtype(x: Tensor) -> Tensor:
    """As rows hold it: half precision in float32 on a CPU, where no kernel here takes less."""
    return x.float() if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16) else x


def prepare(weight: Tensor, bias: Tensor | None, groups: int) -> Weights:
    """Weights (K, C / G, *kernel), or (K, C) of a linear layer, in the order of rows."""
    out, channels = weight.shape[:2]
    bias = None if bias is None else bias.detach().clone()
    each = weight.detach().reshape(groups, out // groups, channels, -1).transpose(2, 3)
    shape = (groups, out // groups, each.shape[2], channels)
    point = groups == each.shape[2] == 1  # which is a product, be it of one channel
    if channels == 1 and groups == out and not point:
        return Weights(shape, each[:, 0, :, 0].t().clone(memory_format=torch.contiguous_format), bias)
    return Weights(shape, _panels(each) if compiled(weight) else each.contiguous().clone(), bias)


def _panels(each: Tensor) -> Tensor:
    """Columns side by side, the last panel padded with zeros."""
    lib = library()
    assert lib is not None
    groups, columns, window, channels = each.shape
    width = lib.panel_width
    count = -(-columns // width)
    padded = each.new_zeros(groups, count * width, window, channels)
    padded[:, :columns] = each
    return padded.view(groups, count, width, window, channels).permute(0, 1, 3, 4, 2).contiguous()


def fill(rows: Tensor, plan: FillPlan) -> RowSource:
    """The rows with those that the plan fills, ring after ring, and one of zeros."""
    count = len(plan.sources)
    filled = empty(rows, count + 1, rows.shape[1])
    filled[count] = 0
    begin = 0
    for end in plan.ends:
        _means(rows, plan, begin, end, filled)
        begin = end
    return RowSource(rows, filled)


def _means(rows: Tensor, plan: FillPlan, begin: int, end: int, filled: Tensor) -> None:
    if gpu := on_gpu(rows):
        gpu.means(RowSource(rows, filled), plan.sources, begin, end)
        return
    if lib := compiled(rows):
        lib.means(rows, plan.sources, filled, begin, end)
        return
    listed = plan.sources[begin:end].long()
    exact = torch.promote_types(rows.dtype, torch.float32)
    read = torch.cat([rows, filled[:begin]])[listed.clamp(min=0)].to(exact)
    there = (listed >= 0)[:, :, None]
    filled[begin:end] = (torch.where(there, read, 0).sum(1) / there.sum(1)).to(rows.dtype)


def product(
    source: RowSource,
    table: Tensor | None,
    weights: Weights,
    added: tuple[Tensor, Tensor | None] | None = None,
    end: Activation = NOTHING,
) -> Tensor:
    """(M, K): end(bias + sum over T of the rows that `table` (M, T) names times their weights + added).

    No table: T = 1, every row its own. `added`: rows, and which of them for each output (None: its own).
    """
    if gpu := on_gpu(source.rows):
        return gpu.product(source, table, weights, added, end)
    rows = len(table) if table is not None else len(source.rows)
    lib = compiled(source.rows)
    if lib is None:
        return _product(source, table, weights, added, end)
    groups, columns = weights.shape[:2]
    out = empty(source.rows, rows, groups * columns)
    more = added or (None, None)
    lib.product(
        source.rows, source.filled, table, weights.values, weights.bias, *more, out, columns, *end.code
    )
    return out


def _product(
    source: RowSource,
    table: Tensor | None,
    weights: Weights,
    added: tuple[Tensor, Tensor | None] | None,
    end: Activation,
) -> Tensor:
    read = source.all()
    read = read[:, None] if table is None else read[table.long()]  # (M, T, C)
    groups = weights.shape[0]
    grouped = read.unflatten(2, (groups, -1)).transpose(1, 2)  # (M, G, T, C / G)
    out = torch.einsum("mgtc,gktc->mgk", grouped, weights.values.to(read.dtype)).flatten(1)
    out = out if weights.bias is None else out + weights.bias
    if added is not None:
        out = out + (added[0] if added[1] is None else added[0][added[1].long()])
    return end(out)


def depthwise(source: RowSource, table: Tensor, weights: Weights, end: Activation = NOTHING) -> Tensor:
    """(M, C): each channel's sum over T of the rows that `table` (M, T) names, with weights (T, C)."""
    if gpu := on_gpu(source.rows):
        return gpu.depthwise(source, table, weights, end)
    if lib := compiled(source.rows):
        out = empty(source.rows, len(table), source.rows.shape[1])
        values = (weights.values, weights.bias)
        lib.depthwise(source.rows, source.filled, table, *values, out, *end.code)
        return out
    out = torch.einsum("mtc,tc->mc", source.all()[table.long()], weights.values.to(source.rows.dtype))
    out = out if weights.bias is None else out + weights.bias
    return end(out)


def maximum(rows: Tensor, table: Tensor) -> Tensor:
    """(M, C): the largest of the rows that `table` (M, T) names; -1 names none."""
    if gpu := on_gpu(rows):
        return gpu.maximum(rows, table)
    if lib := compiled(rows):
        out = empty(rows, len(table), rows.shape[1])
        lib.maximum(rows, table, out)
        return out
    low = torch.cat([rows, rows.new_full((1, rows.shape[1]), -math.inf)])
    return low[torch.where(table < 0, len(rows), table).long()].amax(1)


def affine(
    rows: Tensor,
    at: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    end: Activation,
    out: Tensor | None = None,
    scale_at: Tensor | None = None,
) -> Tensor:
    """(M, C): end(rows[at] * scale + shift), written into `out` if given, which may be a slice of wider rows.

    `scale`: (C,) or (1, C), or (N, C) of which `scale_at` (M,) int32 says which one each row takes.
    """
    out = empty(rows, len(rows if at is None else at), rows.shape[1]) if out is None else out
    scale = scale if scale is None else scale.contiguous()  # one vector for all images may be expanded
    if gpu := on_gpu(rows):
        gpu.affine(rows, at, scale, shift, end, out, scale_at)
        return out
    if lib := compiled(rows):
        scale = scale.flatten() if scale_at is None and scale is not None and scale.ndim > 1 else scale
        scales = (scale, None) if scale_at is None else (None, scale)
        lib.affine(rows, at, *scales, scale_at, shift, out, *end.code)
        return out
    read = rows if at is None else rows[at.long()]
    if scale is not None:
        read = read * (scale if scale_at is None else scale[scale_at.long()])
    return out.copy_(end(read if shift is None else read + shift))


def layer_norm(
    rows: Tensor, at: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """(M, C): rows[at], each less its mean, over its deviation, times `weight` (C,), plus `bias` (C,)."""
    if lib := compiled(rows):
        out = empty(rows, len(rows if at is None else at), rows.shape[1])
        vectors = (None if x is None else x.contiguous() for x in (weight, bias))
        lib.layer_norm(rows, at, *vectors, out, eps)
        return out
    return F.layer_norm(rows if at is None else rows[at.long()], rows.shape[1:], weight, bias, eps)


def side_by_side(
    parts: Sequence[tuple[Tensor, Tensor | None]], norm: tuple[Tensor, Tensor] | None, end: Activation
) -> Tensor:
    """(M, C): end(norm(rows[at] of all parts, side by side)); `norm`: scale and shift, (C,) each."""
    (first, at), widths = parts[0], [rows.shape[1] for rows, _ in parts]
    out = empty(first, len(first if at is None else at), sum(widths))
    scale, shift = norm or (None, None)
    if lib := compiled(first):
        sources, ats = zip(*parts, strict=True)
        lib.side_by_side(sources, ats, scale, shift, out, *end.code)
        return out
    begins = itertools.accumulate(widths, initial=0)
    for (rows, at), begin, width in zip(parts, begins, widths, strict=False):
        own = slice(begin, begin + width)
        vectors = (None, None) if norm is None else (norm[0][own], norm[1][own])
        affine(rows, at, *vectors, end, out[:, own])
    return out


def image_means(rows: Tensor, begins: Tensor, images: Tensor) -> Tensor:
    """(N, C): the mean of each image's rows, which follow each other from `begins`; 0 where it has none."""
    if gpu := on_gpu(rows):
        return gpu.image_means(rows, begins)
    count = len(begins) - 1
    if lib := compiled(rows):
        out = rows.new_empty(count, rows.shape[1])
        lib.image_means(rows, begins, out)
        return out
    exact = torch.promote_types(rows.dtype, torch.float32)
    sums = rows.new_zeros(count, rows.shape[1], dtype=exact).index_add_(0, images, rows.to(exact))
    return (sums / begins.diff().clamp(min=1)[:, None]).to(rows.dtype)
