"""Normalisation layers: statistics over positions are those of the visible entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import varies
from layermask.core.masked import Masked, determined, same_mask, zero_hidden
from layermask.core.rule_table import built_in as rule
from layermask.rules.reduce import everything, moments, visible_share

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Shaped


def _affine(value: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int | None = None) -> Tensor:
    """Scale and shift, along the trailing axes or along `axis`."""
    shape = None if axis is None else [-1] + [1] * (value.ndim - 1 - axis)
    for parameter, act in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            value = act(value, parameter if shape is None else parameter.reshape(shape))
    return value


def _standardised(x: Masked, dims: Sequence[int], eps: float) -> Tensor:
    center, spread, _ = moments(x, dims)
    return (zero_hidden(x) - center) * torch.rsqrt(spread + eps)


@torch.no_grad()
def _update_running(
    mean: Tensor, var: Tensor, center: Tensor, spread: Tensor, number: Tensor, momentum: float
) -> None:
    """Move the running statistics, as torch does; channels of which nothing is visible stay as they are.

    `center`, `spread`, `number`: (1 or N, C, 1...); instance norm averages over the images that show any.
    """
    unbiased = spread * (number / (number - 1).clamp(min=1)).to(spread.dtype)
    shown = (number > 0).expand_as(center).flatten(1)  # (1 or N, C)
    images = shown.sum(0)
    weight = momentum * (images > 0).to(mean.dtype)
    for running, batch in ((mean, center), (var, unbiased)):
        average = (batch.flatten(1) * shown).sum(0) / images.clamp(min=1)
        running.lerp_(average.to(running.dtype), weight)


def scale_and_shift(
    mean: Float[Tensor, " C"],
    var: Float[Tensor, " C"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    eps: float,
) -> tuple[Float64[Tensor, " C"], Float64[Tensor, " C"]]:
    """In float64: a batch norm in evaluation is x * scale + shift."""
    scale = torch.rsqrt(var.double() + eps)
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def fold_batch_norms(
    weight: Float[Tensor, "*W"],
    bias: Float[Tensor, " D"] | None,
    norms: Iterable[tuple[Tensor, Tensor]],
    shaped: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "*W"], Float[Tensor, " D"]]:
    """Return a layer's weight and bias with the norms behind it folded in, computed in float64.

    `norms`: the scale and shift of each, (C,). `shaped` gives a scale the shape that multiplies the weight;
    by default the outputs are its first axis.
    """
    exact, shift = weight.double(), torch.zeros(()) if bias is None else bias.double()
    for scale, offset in norms:
        factor = shaped(scale) if shaped else scale.reshape(-1, *[1] * (weight.ndim - 1))
        exact, shift = exact * factor, shift * scale + offset
    return exact.to(weight.dtype), shift.to(weight.dtype)


@rule(F.batch_norm)
def batch_norm(
    input: Shaped[Masked, " N *S"],
    running_mean: Float[Tensor, " C"] | None,
    running_var: Float[Tensor, " C"] | None,
    weight: Float[Tensor, " C"] | None = None,
    bias: Float[Tensor, " C"] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Shaped[Masked, " N *S"]:
    """Pointwise in evaluation; in training the statistics, running ones too, are of visible entries."""
    if not training and running_mean is not None:
        return same_mask(
            input, F.batch_norm(input.value, running_mean, running_var, weight, bias, False, momentum, eps)
        )
    if input.value.ndim < 2:  # torch takes an empty vector, of which there is nothing to tell
        args = (running_mean, running_var, weight, bias, training, momentum, eps)
        return same_mask(input, F.batch_norm(zero_hidden(input), *args))
    center, spread, number = moments(input, [d for d in range(input.value.ndim) if d != 1])
    if training and running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, center, spread, number, momentum)
    return same_mask(
        input, _affine((zero_hidden(input) - center) * torch.rsqrt(spread + eps), weight, bias, 1)
    )


@rule(F.layer_norm, torch.layer_norm)
def layer_norm(
    input: Shaped[Masked, "*S"],
    normalized_shape: Sequence[int],
    weight: Float[Tensor, "*E"] | None = None,
    bias: Float[Tensor, "*E"] | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Shaped[Masked, "*S"]:
    dims = range(input.value.ndim - len(normalized_shape), input.value.ndim)
    if not varies(input.visible, dims):
        return same_mask(input, F.layer_norm(input.value, normalized_shape, weight, bias, eps))
    plain = F.layer_norm(zero_hidden(input), normalized_shape, weight, bias, eps)
    masked = _affine(_standardised(input, dims, eps), weight, bias)
    return same_mask(input, torch.where(everything(input, dims), plain, masked))


@rule(F.rms_norm, torch.rms_norm)
def rms_norm(
    input: Shaped[Masked, "*S"],
    normalized_shape: Sequence[int],
    weight: Float[Tensor, "*E"] | None = None,
    eps: float | None = None,
) -> Shaped[Masked, "*S"]:
    dims = tuple(range(input.value.ndim - len(normalized_shape), input.value.ndim))
    if not varies(input.visible, dims):
        return same_mask(input, F.rms_norm(input.value, normalized_shape, weight, eps))
    value = zero_hidden(input)
    square = value.square().mean(dims, keepdim=True) / visible_share(input, dims, True, value.dtype)
    eps_ = torch.finfo(value.dtype).eps if eps is None else eps
    masked = _affine(value * torch.rsqrt(square + eps_), weight, None)
    plain = F.rms_norm(value, normalized_shape, weight, eps)
    return same_mask(input, torch.where(everything(input, dims), plain, masked))


@rule(F.group_norm, torch.group_norm)
def group_norm(
    input: Shaped[Masked, "N C *S"],
    num_groups: int,
    weight: Float[Tensor, " C"] | None = None,
    bias: Float[Tensor, " C"] | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Shaped[Masked, "N C *S"]:
    if determined(input, range(1, input.value.ndim)):
        return same_mask(input, F.group_norm(input.value, num_groups, weight, bias, eps))
    value = zero_hidden(input)
    grouped = input.reshape(value.shape[0], num_groups, value.shape[1] // num_groups, *value.shape[2:])
    dims = range(2, grouped.value.ndim)
    plain = F.group_norm(value, num_groups, weight, bias, eps)
    masked = _affine(_standardised(grouped, dims, eps).reshape(value.shape), weight, bias, 1)
    whole = everything(grouped, dims).flatten(1)
    whole = whole if whole.shape[1] == 1 else whole.repeat_interleave(value.shape[1] // num_groups, 1)
    return same_mask(input, torch.where(whole.reshape(*whole.shape, *[1] * (value.ndim - 2)), plain, masked))


@rule(F.instance_norm)
def instance_norm(
    input: Shaped[Masked, "N C *S"],
    running_mean: Float[Tensor, " C"] | None = None,
    running_var: Float[Tensor, " C"] | None = None,
    weight: Float[Tensor, " C"] | None = None,
    bias: Float[Tensor, " C"] | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Shaped[Masked, "N C *S"]:
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = range(2, input.value.ndim)
    center, spread, number = moments(input, dims)
    if running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, center, spread, number, momentum)
    value = zero_hidden(input)
    plain = F.instance_norm(value, None, None, weight, bias, True, momentum, eps)
    masked = _affine((value - center) * torch.rsqrt(spread + eps), weight, bias, 1)
    return same_mask(input, torch.where(everything(input, dims), plain, masked))


def _in_order_of_torch(function: Any) -> Any:
    """torch.batch_norm and torch.instance_norm take the weight and bias before the statistics."""

    def rule(
        input: Masked,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *options: Any,
        **named: Any,
    ) -> Any:
        named.pop("cudnn_enabled", None)
        return function(input, running_mean, running_var, weight, bias, *options[:3], **named)

    return rule


rule(torch.batch_norm)(_in_order_of_torch(F.batch_norm))
rule(torch.instance_norm)(_in_order_of_torch(F.instance_norm))
