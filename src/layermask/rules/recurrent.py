"""Recurrent layers: a sequence with hidden positions runs as if it had only the visible ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from layermask.core.mask import any_over, intersection
from layermask.core.masked import Masked, zero_hidden, zero_undetermined
from layermask.core.rule_table import built_in as rule


def _recurrent(function: Callable) -> Callable:
    def recurrent(input: Masked, hx: Any, params: Any, *options: Any) -> tuple:
        """`options` as torch passes them: has_biases, layers, dropout, train, bidirectional, batch_first.

        Visible positions move to the front, run packed, and move back.
        """
        *rest, batch_first = options
        value = zero_hidden(input) if batch_first else zero_hidden(input).transpose(0, 1)  # (N, L, C)
        steps = any_over(input.forward_pass, input.visible, (-1,), keepdim=True)
        mask = (steps if batch_first else steps.transpose(0, 1))[..., 0].expand(value.shape[:2])
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
        state = [h.index_select(1, packed.unsorted_indices) for h in state]
        return (Masked(out if batch_first else out.transpose(0, 1), steps), *state)

    return recurrent


def _sorted(h: Tensor, order: Any) -> Tensor:
    return h.index_select(1, order)


def _unpacked(packed: Any, data: Tensor, order: Tensor) -> Tensor:
    padded, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=order.shape[1])
    return torch.zeros_like(padded).scatter(1, order[..., None].expand_as(padded), padded)


for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
    rule(function)(_recurrent(function))


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
