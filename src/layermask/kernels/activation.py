"""What a kernel can do to each entry at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Activation(NamedTuple):
    """What is done to each entry at the end of a kernel: a name in `ACTIVATIONS` and two numbers."""

    name: str
    a: float = 0.0
    b: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return x if self == NOTHING else ACTIVATIONS[self.name](x, self.a, self.b)

    @property
    def code(self) -> tuple[int, float, float]:
        return list(ACTIVATIONS).index(self.name), self.a, self.b


ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "clamp": lambda x, a, b: x.clamp(a, b),
    "sigmoid": lambda x, a, b: x.sigmoid(),
    "silu": lambda x, a, b: F.silu(x),
    "hardsigmoid": lambda x, a, b: F.hardsigmoid(x),
    "hardswish": lambda x, a, b: F.hardswish(x),
    "gelu": lambda x, a, b: F.gelu(x),
    "leaky_relu": lambda x, a, b: F.leaky_relu(x, a),
}
"""In the order of kernels/c/activations.h."""
NOTHING = Activation("clamp", -math.inf, math.inf)
