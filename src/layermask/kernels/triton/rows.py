"""What the sparse engine does to rows on GPUs, in Triton: the kernels of product.c and rows.c.

The rows that a table names are read where they are: windows are never laid out in memory. Sums are float32.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from layermask.kernels.triton.fill import _device

if TYPE_CHECKING:
    from layermask.kernels.activation import Activation
    from layermask.kernels.operands import RowSource, Weights

KINDS = (torch.float32, torch.bfloat16, torch.float16)
TILE = 1024  # rows times channels of one program of the simple kernels
TILES = ((128, 128), (128, 64), (64, 64), (64, 32), (32, 32))
"""Rows and columns that a program of `product` computes, the largest first: it reads least per sum."""


def takes(like: Tensor) -> bool:
    """Whether the kernels know the type of a tensor, and Triton its device."""
    known = not like.is_cuda or torch.cuda.get_device_capability(like.device) >= (8, 0)
    return known and like.dtype in KINDS


def product(
    source: RowSource,
    table: Tensor | None,
    weights: Weights,
    added: tuple[Tensor, Tensor | None] | None,
    end: Activation,
) -> Tensor:
    """As `sparse.ops.product`."""
    groups, columns, taps, channels = weights.shape
    rows = len(source.rows) if table is None else len(table)
    out = source.rows.new_empty(rows, groups * columns)
    if not out.numel():
        return out
    more, at = added or (None, None)
    high, wide = _tile(rows, columns, groups, _processors(out), exact=_precision(out) == "ieee")
    grid = (triton.cdiv(rows, high) * triton.cdiv(columns, wide), groups)
    with _device(out):
        _product[grid](
            *_rows(source),
            *(table, weights.values, weights.bias, more, at, 0 if more is None else more.stride(0)),
            *(out, out.stride(0), rows, taps, channels, columns, end.a, end.b),
            **_how(end),
            **_schedule(out, channels, high, wide),
        )
    return out


def _precision(x: Tensor) -> str:
    """How factors are rounded before they are multiplied: as torch's own products of this type."""
    matmul = torch.backends.cuda.matmul
    setting = getattr(matmul, "fp32_precision", None)  # where that is, the older one may raise
    tf32 = matmul.allow_tf32 if setting is None else setting == "tf32"
    return "tf32" if tf32 or x.itemsize == 2 else "ieee"


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _tile(rows: int, columns: int, groups: int, processors: int, exact: bool) -> tuple[int, int]:
    """The largest tile of which there is one for every processor, no wider than the columns.

    `exact`: products of whole float32 numbers are not for tensor cores, and sums of large tiles then do not
    fit in registers.
    """
    widest = max(16, triton.next_power_of_2(columns))
    tiles = [(high, min(wide, widest)) for high, wide in TILES if high <= 64 or not exact]
    enough = (
        tile
        for tile in tiles
        if triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1]) * groups >= processors
    )
    return next(enough, tiles[-1])


def _schedule(x: Tensor, channels: int, high: int, wide: int) -> dict[str, Any]:
    """64 bytes or 128 of a row at a time; three steps of the largest tile fit in any GPU's shared memory."""
    precision = _precision(x)
    deepest = 64 if x.itemsize == 2 else 32 if precision == "tf32" else 16
    deep = min(deepest, max(16, triton.next_power_of_2(channels)))
    warps = 8 if high * wide > 64 * 64 else 4
    return dict(PRECISION=precision, HIGH=high, WIDE=wide, DEEP=deep, num_warps=warps, num_stages=3)


def depthwise(source: RowSource, table: Tensor, weights: Weights, end: Activation) -> Tensor:
    """As `sparse.ops.depthwise`."""
    out = source.rows.new_empty(len(table), source.rows.shape[1])
    more = (table, table.shape[1], weights.values, weights.bias, end.a, end.b)
    _over(_depthwise, out, *_rows(source), *more, **_how(end))
    return out


def maximum(rows: Tensor, table: Tensor) -> Tensor:
    """As `sparse.ops.maximum`."""
    out = rows.new_empty(len(table), rows.shape[1])
    _over(_maximum, out, rows, rows.stride(0), table, table.shape[1])
    return out


def affine(
    rows: Tensor,
    at: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    end: Activation,
    out: Tensor,
    scale_at: Tensor | None,
) -> None:
    """As `sparse.ops.affine`."""
    step = 0 if scale is None or scale_at is None else scale.stride(0)
    more = (at, scale, scale_at, step, shift, end.a, end.b)
    _over(_affine, out, rows, rows.stride(0), *more, **_how(end))


def means(source: RowSource, sources: Tensor, begin: int, end: int) -> None:
    """Write to the filled rows `begin` to `end` the means of the rows that `sources` names for them."""
    assert source.filled is not None
    _over(_means, source.filled[begin:end], *_rows(source), sources[begin:end], AROUND=sources.shape[1])


def image_means(rows: Tensor, begins: Tensor) -> Tensor:
    """As `sparse.ops.image_means`."""
    images, channels = len(begins) - 1, rows.shape[1]
    out = rows.new_empty(images, channels)
    high, wide = 32, min(32, triton.next_power_of_2(channels))
    if out.numel():
        with _device(out):
            grid = (images, triton.cdiv(channels, wide))
            _image_means[grid](rows, rows.stride(0), begins, out, channels, HIGH=high, WIDE=wide)
    return out


def _rows(source: RowSource) -> tuple[Tensor, int, int, int | None]:
    """What `_named` takes: the first rows, how many, their step, and how far behind them the others begin."""
    if source.filled is None:
        return source.rows, len(source.rows), source.rows.stride(0), None
    rows = source.rows.contiguous()
    gap = source.filled.data_ptr() - rows.data_ptr()
    return rows, len(rows), rows.shape[1], gap // rows.itemsize


def _over(kernel: Any, out: Tensor, *args: Any, **constants: Any) -> None:
    """Run a kernel for every part of `out` (M, C): it takes `out`, the step of its rows, M, C, `args`."""
    if not out.numel():
        return
    rows, channels = out.shape
    wide = min(128, triton.next_power_of_2(channels))
    high = TILE // wide
    with _device(out):
        grid = (triton.cdiv(rows, high), triton.cdiv(channels, wide))
        kernel[grid](out, out.stride(0), rows, channels, *args, **constants, HIGH=high, WIDE=wide)


def _how(end: Activation) -> dict[str, str]:
    nothing = end.name == "clamp" and (end.a, end.b) == (-float("inf"), float("inf"))
    return {"HOW": "nothing" if nothing else end.name}


@triton.jit
def _ended(x, a, b, HOW: tl.constexpr):
    """The activations of activations.h. NaN stays NaN."""
    if HOW == "clamp":
        x = _clamped(x, a, b)
    elif HOW == "sigmoid":
        x = 1.0 / (1.0 + tl.exp(-x))
    elif HOW == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif HOW == "hardsigmoid":
        x = _clamped(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)
    elif HOW == "hardswish":
        x = x * _clamped(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)
    elif HOW == "gelu":
        x = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    elif HOW == "leaky_relu":
        x = tl.where(x > 0, x, x * a)
    else:
        tl.static_assert(HOW == "nothing")
    return x


@triton.jit
def _clamped(x, low, high):
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def _named(first, split, step, gap, row):
    """Pointers to numbered rows. Row `split` is `gap` entries behind `first`, in another tensor."""
    at = row.to(tl.int64) * step
    if gap is not None:  # no tl.where: behind that, the compiler no longer knows that rows are aligned
        at += (row >= split).to(tl.int64) * (gap - split.to(tl.int64) * step)
    return first + at


@triton.jit
def _part(rows, channels, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """The rows and channels of a program, and which of them there are."""
    m = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    return m, c, m < rows, c < channels


@triton.jit(do_not_specialize=["split", "rows"])
def _product(
    first, split, step, gap: tl.int64, table, weights, bias, added, added_at, added_step, out, out_step,
    rows, taps, channels, columns, a, b,
    HOW: tl.constexpr, PRECISION: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """Programs that follow each other read the same rows, so that these come from the cache.

    One loop goes over taps and channels: of a loop in a loop only the inner one would be read ahead.
    """
    group = tl.program_id(1)
    across = tl.cdiv(columns, WIDE)
    m = (tl.program_id(0) // across).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    n = tl.program_id(0) % across * WIDE + tl.arange(0, WIDE)
    here, some = m < rows, n < columns
    steps = tl.cdiv(channels, DEEP)
    matrix = weights + (group * columns + n).to(tl.int64) * (taps * channels)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for k in range(0, taps * steps):
        tap, c = k // steps, k % steps * DEEP + tl.arange(0, DEEP)
        row = m
        if table is not None:
            row = tl.load(table + m * taps + tap, mask=here, other=0)
        deep = c < channels
        at = _named(first, split, step, gap, row) + group * channels
        left = tl.load(at[:, None] + c[None, :], mask=here[:, None] & deep[None, :], other=0.0)
        right = matrix[None, :] + (tap * channels + c)[:, None]
        right = tl.load(right, mask=deep[:, None] & some[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    column = group * columns + n
    if bias is not None:
        total += tl.load(bias + column, mask=some, other=0.0).to(tl.float32)[None, :]
    inside = here[:, None] & some[None, :]
    if added is not None:
        more = m
        if added_at is not None:
            more = tl.load(added_at + m, mask=here, other=0).to(tl.int64)
        more = added + more[:, None] * added_step + column[None, :]
        total += tl.load(more, mask=inside, other=0.0).to(tl.float32)
    total = _ended(total, a, b, HOW)
    at = out + m[:, None] * out_step + column[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["split", "rows"])
def _depthwise(
    out, out_step, rows, channels, first, split, step, gap: tl.int64, table, taps, weights, bias, a, b,
    HOW: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    m, c, here, some = _part(rows, channels, HIGH, WIDE)
    inside = here[:, None] & some[None, :]
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for tap in range(0, taps):
        row = tl.load(table + m * taps + tap, mask=here, other=0)
        at = _named(first, split, step, gap, row)
        x = tl.load(at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
        total += x * tl.load(weights + tap * channels + c, mask=some, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        total += tl.load(bias + c, mask=some, other=0.0).to(tl.float32)[None, :]
    total = _ended(total, a, b, HOW).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * out_step + c[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _maximum(
    out, out_step, rows, channels, source, step, table, taps, HIGH: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    m, c, here, some = _part(rows, channels, HIGH, WIDE)
    inside = here[:, None] & some[None, :]
    most = tl.full((HIGH, WIDE), -float("inf"), tl.float32)
    for tap in range(0, taps):
        row = tl.load(table + m * taps + tap, mask=here, other=-1)
        at = source + row.to(tl.int64)[:, None] * step + c[None, :]
        x = tl.load(at, mask=(row >= 0)[:, None] & some[None, :], other=-float("inf")).to(tl.float32)
        most = tl.where((x > most) | (x != x), x, most)
    tl.store(out + m[:, None] * out_step + c[None, :], most.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _affine(
    out, out_step, rows, channels, source, step, at, scale, scale_at, scale_step, shift, a, b,
    HOW: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    m, c, here, some = _part(rows, channels, HIGH, WIDE)
    inside = here[:, None] & some[None, :]
    row = m
    if at is not None:
        row = tl.load(at + m, mask=here, other=0).to(tl.int64)
    x = tl.load(source + row[:, None] * step + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if scale is not None:
        which = m * 0
        if scale_at is not None:
            which = tl.load(scale_at + m, mask=here, other=0).to(tl.int64)
        x *= tl.load(scale + which[:, None] * scale_step + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if shift is not None:
        x += tl.load(shift + c, mask=some, other=0.0).to(tl.float32)[None, :]
    x = _ended(x, a, b, HOW).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * out_step + c[None, :], x, mask=inside)


@triton.jit(do_not_specialize=["split", "rows"])
def _means(
    out, out_step, rows, channels, first, split, step, gap: tl.int64, sources,
    AROUND: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One ring: it reads rows and earlier rings, which no program of this launch writes."""
    m, c, here, some = _part(rows, channels, HIGH, WIDE)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    count = tl.zeros((HIGH,), tl.float32)
    for i in tl.static_range(AROUND):
        row = tl.load(sources + m * AROUND + i, mask=here, other=-1)
        there = row >= 0
        at = _named(first, split, step, gap, row)
        x = tl.load(at[:, None] + c[None, :], mask=there[:, None] & some[None, :], other=0.0)
        total += x.to(tl.float32)
        count += there.to(tl.float32)
    mean = (total / tl.maximum(count, 1)[:, None]).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * out_step + c[None, :], mean, mask=here[:, None] & some[None, :])


@triton.jit
def _image_means(rows, step, begins, out, channels, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """In one order whatever the batch; torch's `index_add_` sums in any, and of a copy in float32."""
    image, c = tl.program_id(0), tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    begin, end = tl.load(begins + image), tl.load(begins + image + 1)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for first in range(begin, end, HIGH):
        m = first + tl.arange(0, HIGH)
        inside = (m < end)[:, None] & (c < channels)[None, :]
        total += tl.load(rows + m[:, None] * step + c[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / tl.maximum(end - begin, 1).to(tl.float32)
    at = out + image.to(tl.int64) * channels + c
    tl.store(at, mean.to(out.dtype.element_ty), mask=c < channels)
