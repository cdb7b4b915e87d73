"""Sparse forms of pooling, means and norms over positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import any_over
from layermask.core.masked import Masked
from layermask.padding.rings import NEVER
from layermask.rules.pool import pool_window
from layermask.sparse import ops
from layermask.sparse.active import active_sites
from layermask.sparse.graph import MaxPool, MeanPool, Node
from layermask.sparse.rules.conv import _grown
from layermask.sparse.rules.table import decline_unless, rows_of, sparse_form
from layermask.sparse.value import ORDERS, SparseMasked


@sparse_form(F.max_pool2d, torch.max_pool2d)
def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SparseMasked:
    node = rows_of(input)
    decline_unless(not return_indices, node.forward_pass.settings.pool in (None, "nothing"))
    window = pool_window(input, 2, kernel_size, stride, padding, dilation, ceil_mode)
    decline_unless(all(0 <= 2 * b <= k for b, k in zip(window.before, window.kernel, strict=True)))
    visible = _grown(input, window)
    return SparseMasked(MaxPool(node, visible, window), strided_last=input.strided_last)


@sparse_form(F.avg_pool2d)
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
    decline_unless(not any(window.before), divisor_override is None)
    if window.kernel == tuple(node.mask.shape[2:]):
        return _global_mean(node, (2, 3), True)
    decline_unless(not ceil_mode or pool_window(input, 2, kernel_size, stride, padding, 1, True) == window)
    decline_unless(max(window.reach) < NEVER)
    visible = _grown(input, window)
    return SparseMasked(MeanPool(node, visible, window), strided_last=input.strided_last)


@sparse_form(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Masked:
    decline_unless(output_size in (1, (1, 1), [1, 1]), output_size is not True)
    return _global_mean(rows_of(input), (2, 3), True)


@sparse_form(torch.mean, Tensor.mean)
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Masked:
    decline_unless(dtype is None, dim is not None)
    return _global_mean(rows_of(input, *ORDERS), _spatial(input, dim), keepdim)


def _spatial(x: SparseMasked, dim: Any) -> tuple[int, ...]:
    """The axes `dim`, which are to be those of all positions."""
    given = [dim] if isinstance(dim, int) else dim
    decline_unless(all(-4 <= d < 4 for d in given))
    dims = tuple(sorted(d % 4 for d in given))
    decline_unless(dims == tuple(ORDERS[x.order].index(axis) for axis in (2, 3)))
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
    sites = active_sites(node.forward_pass, node.mask, node.batch)
    value = behind(ops.image_means(before(node.at(node.mask)), sites.begins, sites.images))
    visible = any_over(node.forward_pass, node.mask, (2, 3), True)
    shape = list(value.shape)
    for axis in dims if keepdim else ():
        shape.insert(axis, 1)
    value = value.to(node.kind.dtype).reshape(shape)
    return Masked(value, visible.reshape([len(visible)] + [1] * (len(shape) - 1)))


@sparse_form(torch.norm, Tensor.norm, torch.functional.norm)
def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Masked:
    """The length of each channel over what is visible (global response normalisation)."""
    node = rows_of(input, *ORDERS)
    decline_unless(p in (2, 2.0, "fro"), dtype is None, dim is not None)
    count = active_sites(node.forward_pass, node.mask, node.batch).begins.diff()[:, None]
    return _global_mean(
        node, _spatial(input, dim), keepdim, lambda x: x.square(), lambda x: (x * count).sqrt()
    )
