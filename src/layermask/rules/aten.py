"""Operators of aten that stand for no torch function of their name. The others take its rule: `core.aten`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from layermask.core.masked import Masked
from layermask.core.rule_table import built_in as rule

aten = torch.ops.aten


@rule(aten.slice.Tensor)
def slice_(input: Masked, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Masked:
    whole = [slice(None)] * input.ndim
    whole[dim] = slice(start, end, step)
    return input[tuple(whole)]


@rule(aten.convolution.default)
def convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    dims = len(stride)
    if transposed:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return function(input, weight, bias, stride, padding, dilation, groups)


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm(input: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return F.batch_norm(input, mean, var, weight, bias, False, momentum, eps), None, None


@rule(aten.native_layer_norm.default)
def layer_norm(input: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    return F.layer_norm(input, shape, weight, bias, eps), None, None


@rule(aten.native_group_norm.default)
def group_norm(
    input: Any, weight: Any, bias: Any, batch: int, channels: int, cells: int, groups: int, eps: float
) -> Any:
    return F.group_norm(input, groups, weight, bias, eps), None, None


@rule(aten.max_pool2d_with_indices.default)
def max_pool2d(input: Any, *geometry: Any) -> Any:
    """Without the places, which nothing but training and unpooling reads."""
    return F.max_pool2d(input, *geometry), None


@rule(aten._scaled_dot_product_flash_attention_for_cpu.default)
def attention(
    query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, **options: Any
) -> Any:
    return F.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout_p, is_causal=is_causal, **options
    ), None


@rule(aten._softmax.default)
def softmax(input: Any, dim: int, half_to_float: bool) -> Any:
    return torch.softmax(input, dim, torch.float32 if half_to_float else None)


@rule(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    return F.adaptive_avg_pool2d(input, output_size)


@rule(aten.alias.default)
def alias(input: Any) -> Any:
    return input[...]


@rule(aten.split.Tensor)
def split(input: Any, size: int, dim: int = 0) -> Any:
    return torch.split(input, size, dim)


@rule(aten._unsafe_view.default)
def view(input: Any, size: Any) -> Any:
    return input.view(size)


@rule(aten._to_copy.default)
def to_copy(input: Any, **options: Any) -> Any:
    known = {
        name: options[name] for name in ("dtype", "device", "memory_format") if options.get(name) is not None
    }
    return input.to(copy=True, **known)


@rule(aten._assert_tensor_metadata.default)
def assert_tensor_metadata(*args: Any, **kwargs: Any) -> None:
    """Exported programs check what they were made for; a masked value has it of the value."""


@rule(aten.sym_size.int)
def sym_size(input: Masked, dim: int) -> int:
    return input.value.shape[dim]


def _upsampled(mode: str) -> Any:
    def rule(input: Any, output_size: Any, align_corners: Any = None, scale_factors: Any = None) -> Any:
        if mode.startswith("nearest"):
            scale_factors, align_corners = align_corners, None
        return F.interpolate(input, output_size, scale_factors, mode, align_corners)

    return rule


for operator, mode in (
    (aten.upsample_nearest1d.vec, "nearest"),
    (aten.upsample_nearest2d.vec, "nearest"),
    (aten.upsample_nearest3d.vec, "nearest"),
    (aten.upsample_linear1d.vec, "linear"),
    (aten.upsample_bilinear2d.vec, "bilinear"),
    (aten.upsample_bicubic2d.vec, "bicubic"),
    (aten.upsample_trilinear3d.vec, "trilinear"),
):
    rule(operator)(_upsampled(mode))
