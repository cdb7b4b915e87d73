"""Random programs of torch calls on a feature map: reads, views, writes in place, hooks and reuse.

A program is a list of steps. Each step is the name of an operation, in one of the tables below, and a number
that chooses the value it is applied to. `Model` plays it on plain tensors and on `Masked` values alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import Masked

Step = tuple[str, int]
CHANNELS, SIZE = 16, 8


def like(x: Any, seed: int = 0) -> Tensor:
    """A plain tensor of the shape of `x`, between 0.5 and 1.5."""
    return torch.rand(tuple(x.shape), generator=torch.Generator().manual_seed(seed)) + 0.5


def _set(index: Any, value: Any) -> Callable:
    """Write by index; the value may be computed from what is written to."""
    return lambda x: x.__setitem__(index, value(x) if callable(value) else value)


HALF, EVERY = slice(None, 2), slice(None)

READS: dict[str, Callable[[Any], Any]] = {  # the result is used at the end; the value itself is not to change
    "max": lambda x: x.amax(-1),
    "mean": lambda x: x.mean(),
    "variance": lambda x: x.var(-1),
    "softmax": lambda x: x.softmax(-1),
    "flip": lambda x: x.flip(-1),
    "clone": lambda x: x.clone(),
    "sum": lambda x: x.sum(0),
    "cumsum": lambda x: x.cumsum(-1),
    "twice": lambda x: x * 2 + x,
    "gate": lambda x: x * x.mean(-1, keepdim=True).sigmoid(),
    "relu": F.relu,
    "concatenated": lambda x: torch.cat([x, x], -1),
    "plain value": lambda x: (torch.where(x.visible, x.value, 0) if isinstance(x, Masked) else x).mean(),
}
VIEWS: dict[str, Callable[[Any], Any]] = {
    "view": lambda x: x.view(x.shape),
    "flat view": lambda x: x.flatten(1),
    "reshape": lambda x: x.reshape(len(x), -1),
    "unflatten": lambda x: x.flatten(-2).unflatten(-1, x.shape[-2:]) if x.ndim > 2 else x.view_as(x),
    "transpose": lambda x: x.transpose(0, -1),
    "channels last": lambda x: x.permute(0, 2, 3, 1) if x.ndim == 4 else x.swapaxes(0, 1),
    "channels first": lambda x: x.permute(0, 3, 1, 2) if x.ndim == 4 else x.mT,
    "movedim": lambda x: x.movedim(0, -1),
    "squeeze": lambda x: x.squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "new axis": lambda x: x[None],
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "same dtype": lambda x: x.to(torch.float32),
    "float": lambda x: x.float(),
    "expand": lambda x: x.expand(x.shape),
    "expand as": lambda x: x.expand_as(x),
    "contiguous": lambda x: x.contiguous(),
    "first": lambda x: x[0],
    "last": lambda x: x.select(-1, -1),
    "channels": lambda x: x[:, :2],
    "all channels": lambda x: x[:, :],
    "last channels": lambda x: x[:, -2:],
    "step": lambda x: x[..., ::2],
    "narrow": lambda x: x.narrow(0, 0, 1),
    "chunk": lambda x: x.chunk(2, 1)[0],
    "other chunk": lambda x: x.chunk(2, 1)[-1],
    "split": lambda x: x.split(1, 1)[-1],
    "unbind": lambda x: x.unbind(-1)[0],
    "diagonal": lambda x: x.diagonal(0, -2, -1),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "identity": nn.Identity(),
}
WRITES: dict[str, Callable[[Any], Any]] = {
    "relu_": lambda x: x.relu_(),
    "relu in place": lambda x: F.relu(x, inplace=True),
    "relu6 in place": lambda x: F.relu6(x, inplace=True),
    "silu in place": lambda x: F.silu(x, inplace=True),
    "hardswish in place": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid in place": lambda x: F.hardsigmoid(x, inplace=True),
    "elu in place": lambda x: F.elu(x, inplace=True),
    "leaky relu in place": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "threshold in place": lambda x: F.threshold(x, 0.1, -0.2, inplace=True),
    "rrelu in place": lambda x: F.rrelu(x, inplace=True),
    "dropout in place": lambda x: F.dropout(x, 0.5, training=False, inplace=True),
    "sigmoid_": lambda x: x.sigmoid_(),
    "tanh_": lambda x: torch.tanh_(x),
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "mul_": lambda x: x.mul_(0.5),
    "add_ a tensor": lambda x: x.add_(like(x)),
    "mul_ by a tensor": lambda x: x.mul_(like(x, 1)),
    "add_ itself": lambda x: x.add_(x),
    "+=": lambda x: x.__iadd__(0.3),
    "*= a part of itself": lambda x: x.__imul__(x.mean(-1, keepdim=True)),
    "addcmul_": lambda x: x.addcmul_(like(x), like(x, 1)),
    "zero_": lambda x: x.zero_(),
    "fill_": lambda x: x.fill_(0.7),
    "masked_fill_": lambda x: x.masked_fill_(like(x) > 1, 0.0),
    "copy_": lambda x: x.copy_(like(x)),
    "copy_ of its double": lambda x: x.copy_(x * 0.5),
    "x[...] = 0.5": _set(Ellipsis, 0.5),
    "x[0] = 0": _set(0, 0.0),
    "x[:, :2] = 0": _set((EVERY, HALF), 0.0),
    "x[..., :2] = 0": _set((Ellipsis, HALF), 0.0),
    "x[..., ::2] = 1": _set((Ellipsis, slice(None, None, 2)), 1.0),
    "x[:, :2] = f(x[:, :2])": _set((EVERY, HALF), lambda x: x[:, :2].relu()),
    "x[..., :1] = a mean": _set((Ellipsis, slice(None, 1)), lambda x: x.mean(-1, keepdim=True)),
    "chunk added to its sibling": lambda x: x.chunk(2, 1)[0].add_(x.chunk(2, 1)[-1]),
    "chunks, relu_": lambda x: [part.relu_() for part in x.chunk(2, 1)],
    "square_ of a transpose": lambda x: x.transpose(0, -1).square_(),
}
TABLES = {**READS, **VIEWS, **WRITES}
LAYERS = ("conv", "depthwise", "point", "norm", "pool", "forget", "sum of two", "back")
"""Steps on whole maps by layers of the model, forgetting a value, and writing one value into another."""
NAMES = (*TABLES, *LAYERS)


class Model(nn.Module):
    """A program on what a convolution gives, and as many layers as make the sparse engine worth it."""

    def __init__(self, steps: Sequence[Step], hooked: Sequence[Step] = ()) -> None:
        """`hooked` is played by a forward hook of the first norm, which gives back what it was given."""
        super().__init__()
        self.steps = steps
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.first = nn.BatchNorm2d(CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.point = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.last = nn.Conv2d(CHANNELS, 4, 1)
        self.hooked = hooked
        self.first.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.play(self.hooked, output)

    def forward(self, x: Any) -> list[Any]:
        torch.manual_seed(0)  # of rrelu
        y = self.first(self.stem(x))
        return [*self.play(self.steps, y), self.last(self.conv(F.relu(y, inplace=True)))]

    def play(self, steps: Sequence[Step], y: Any) -> list[Any]:
        """All values that are left, after the steps."""
        values = [y]
        del y
        for name, which in steps:
            index = which % len(values)
            self._step(name, index, values)
        return values

    def _step(self, name: str, index: int, values: list[Any]) -> None:
        x = values[index]
        if name in WRITES:
            if _writable(x):
                WRITES[name](x)
        elif name in TABLES:
            if x.ndim > 1 and min(x.shape) > 0 and x.shape[1] > 1:
                values.append(TABLES[name](x))
        elif name == "forget":
            del values[max(1, index) : index + 1]
        elif name == "back":  # what was derived is written into what it was derived of
            values[0].copy_(values[index]) if x.shape == values[0].shape and x is not values[0] else None
        elif name == "sum of two":
            values.append(values[0] + x if x.shape == values[0].shape else x + x)
        elif tuple(x.shape[1:]) == (CHANNELS, SIZE, SIZE):
            values.append(getattr(self, name)(x))


def _writable(x: Any) -> bool:
    return x.ndim > 1 and x.shape[1] > 1 and x.shape[-1] > 1
