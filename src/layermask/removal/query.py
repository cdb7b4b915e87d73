"""Batches that do not fit into memory, asked in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.errors import out_of_memory
from layermask.zoo.outputs import scores


class Halving:
    """`removal`, asked for half as many masks at a time whenever memory runs out; `say` hears of it.

    The answers stay the same, to the rounding of other batch sizes. With one mask at a time the error is
    raised.
    """

    def __init__(self, removal: Callable[..., Any], say: Callable[[str], None] = print) -> None:
        self.removal, self.say = removal, say
        self.limit: int | None = None

    def __call__(self, images: Tensor, visible: Tensor) -> Any:
        """Return the (n, classes) answers to images (n or 1, C, *S) under visible (n, 1, *S)."""
        while True:
            size = min(len(visible), self.limit or len(visible))
            try:
                return self._in_parts(images, visible, size)
            except (RuntimeError, MemoryError) as error:  # handled below: its traceback holds the tensors
                if size == 1 or not out_of_memory(error):
                    raise
            self.limit = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.say(f"out of memory: going on with {self.limit} pictures at a time")

    def _in_parts(self, images: Tensor, visible: Tensor, size: int) -> Any:
        if size == len(visible):
            return self.removal(images, visible)
        parts = images.split(size) if len(images) > 1 else [images] * -(-len(visible) // size)
        answers = [self.removal(x, mask) for x, mask in zip(parts, visible.split(size), strict=True)]
        return torch.cat([scores(answer) for answer in answers])
