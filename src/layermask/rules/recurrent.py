"""Recurrent layers: a sequence with hidden positions runs as if it had only the visible ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from layermask._private_torch import called_for_lists, functions_of_name
from layermask.core.mask import any_over, intersection
from layermask.core.masked import Masked, zero_hidden, zero_undetermined
from layermask.core.rule_table import built_in as rule


def _recurrent(function: Callable) -> Callable:
    def recurrent(input: Masked, *args: Any) -> tuple:
        """Torch passes hx, parameters, options and batch_first; for packed sequences sizes come first."""
        if isinstance(args[0], Tensor) and not args[0].is_floating_point():
            return _of_packed(function, input, *args)
        hx, params, *rest, batch_first = args
        value = zero_hidden(input) if batch_first else zero_hidden(input).transpose(0, 1)  # (N, L, C)
        steps = any_over(input.forward_pass, input.visible, (-1,), keepdim=True)
        mask = (steps if batch_first else steps.transpose(0, 1))[..., 0].expand(value.shape[:2])
        out, state = _over_visible(function, value, mask, hx, params, *rest)
        return (Masked(out if batch_first else out.transpose(0, 1), steps), *state)

    return recurrent


def _of_packed(function: Callable, x: Masked, sizes: Tensor, hx: Any, params: Any, *rest: Any) -> tuple:
    """The same of packed sequences: unpacked, and packed again."""
    steps = any_over(x.forward_pass, x.visible, (-1,), keepdim=True).expand(len(x.value), 1)
    value, lengths = _unpack(zero_hidden(x), sizes, True, 0.0, len(sizes))
    mask, _ = _unpack(steps.to(torch.uint8), sizes, True, 0, len(sizes))
    out, state = _over_visible(function, value, mask[..., 0] > 0, hx, params, *rest)
    return (Masked(_pack(out, lengths, True)[0], steps), *state)


def _over_visible(
    function: Callable, value: Tensor, mask: Tensor, hx: Any, params: Any, *rest: Any
) -> tuple[Tensor, list]:
    """The outputs (N, L, C) and last states for sequences (N, L, C) of which the steps `mask` (N, L) count.

    Visible positions move to the front, run packed, and move back.
    """
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    lengths = mask.sum(1).clamp(min=1).cpu()
    ordered = value.gather(1, order[..., None].expand_as(value))
    packed = pack_padded_sequence(ordered, lengths, batch_first=True, enforce_sorted=False)
    hx = (
        tuple(_sorted(h, packed.sorted_indices) for h in hx)
        if isinstance(hx, tuple)
        else _sorted(hx, packed.sorted_indices)
    )
    data, *state = function(packed.data, packed.batch_sizes, hx, params, *rest)
    out = _unpacked(packed, data, order)
    return out, [h.index_select(1, packed.unsorted_indices) for h in state]


def _sorted(h: Tensor, order: Any) -> Tensor:
    return h.index_select(1, order)


def _unpacked(packed: Any, data: Tensor, order: Tensor) -> Tensor:
    padded, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=order.shape[1])
    return torch.zeros_like(padded).scatter(1, order[..., None].expand_as(padded), padded)


for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
    rule(function)(_recurrent(function))


_SEQUENCES = next(functions_of_name("pad_sequence"))
_pack, _unpack = (called_for_lists(f"_{name}") for name in ("pack_padded_sequence", "pad_packed_sequence"))


@rule(_pack)
def pack_padded(input: Masked, lengths: Tensor, batch_first: bool) -> tuple[Masked, Tensor]:
    data, sizes = _pack(input.value, lengths, batch_first)
    steps = input.visible.expand(*input.shape[:2], *input.visible.shape[2:]).to(torch.uint8)
    return Masked(data, _pack(steps, lengths, batch_first)[0] > 0), sizes


@rule(_unpack)
def pad_packed(input: Masked, sizes: Tensor, batch_first: bool, padding: float, length: int) -> tuple:
    """What fills up the sequences is as visible as any number of the model."""
    value, lengths = _unpack(input.value, sizes, batch_first, padding, length)
    steps = input.visible.expand(len(input.value), *input.visible.shape[1:]).to(torch.uint8)
    return Masked(value, _unpack(steps, sizes, batch_first, 1, length)[0] > 0), lengths


@rule(_SEQUENCES)
def pad(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Masked:
    """The same of sequences (L, ...) one by one."""
    pairs = [
        x if isinstance(x, Masked) else Masked(x, torch.ones_like(x, dtype=torch.bool)) for x in sequences
    ]
    value = _SEQUENCES([x.value for x in pairs], batch_first, padding_value, padding_side)
    narrow = [max(x.visible.shape[d] for x in pairs) for d in range(1, value.ndim - 1)]
    shown = [x.visible.expand(len(x.value), *narrow).to(torch.uint8) for x in pairs]
    return Masked(value, _SEQUENCES(shown, batch_first, 1, padding_side) > 0)


def _cell(function: Callable) -> Callable:
    def cell(input: Any, hx: Any, *weights: Any) -> Any:
        """One step of each row; visible where the input of the row and its state are."""
        states = hx if isinstance(hx, (tuple, list)) else (hx,)
        masked = [x for x in (input, *states) if isinstance(x, Masked)]
        plain = [zero_undetermined(x, (-1,)) if isinstance(x, Masked) else x for x in (input, *states)]
        out = function(plain[0], tuple(plain[1:]) if isinstance(hx, (tuple, list)) else plain[1], *weights)
        seen = any_over(masked[0].forward_pass, masked[0].visible, (-1,), keepdim=True)
        for x in masked[1:]:
            seen = intersection(
                x.forward_pass, seen, any_over(x.forward_pass, x.visible, (-1,), keepdim=True)
            )
        return tuple(Masked(h, seen) for h in out) if isinstance(out, tuple) else Masked(out, seen)

    return cell


for function in (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell):
    rule(function)(_cell(function))
