"""What one pass through a model shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import identities
from layermask.core.settings import DEFAULTS, Settings


@dataclass(eq=False)
class ForwardPass:
    """What one pass through a model shares: settings, its own rules, and the masks derived so far."""

    settings: Settings = field(
        default_factory=lambda: DEFAULTS
    )  # a factory: torch 2.11's compiler takes no plain default
    rules: Mapping[Callable, Callable] = field(default_factory=dict)
    memo: dict = field(default_factory=dict)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    overrides: tuple[Mapping, ...] = ()  # where the pass began: it may go on in other threads, or later
    sparse_engine: Any = None  # the sparse engine, tried first (layermask.sparse)
    function: Callable | None = None  # that the sparse engine computes or puts off now
    rows: bool = False  # whether anything was computed as rows of visible cells
    watch: Callable | None = None  # `watch(function, args, kwargs, call)` answers in place of `call()`
    ended: bool = False  # True once the module `settings.until` has run: from there on nothing is masked
    masks: int | None = None  # how many there are, one for all images or one for each, where it is known
    outside: bool = False  # of values that no pass has made: what is hidden may be anything

    def remember(self, name: str, mask: Tensor, fact: Any) -> None:
        """Keep what is known of a mask."""
        if torch.compiler.is_compiling():  # tensors have no ids yet: they are compared one by one
            self.memo.setdefault("traced", []).append(((name, None), (mask,), fact))
        else:
            self.memo[(name, *identities(mask))] = (fact, mask)

    def remembered(self, name: str, mask: Tensor) -> Any:
        """What is known of a mask, or None."""
        if torch.compiler.is_compiling():
            return self.traced((name, None), (mask,))
        return self.memo.get((name, *identities(mask)), (None,))[0]

    def traced(self, key: tuple, masks: tuple[Tensor, ...]) -> Any:
        """What was kept for this key and these masks while compiling, or None."""
        for known, others, found in self.memo.get("traced", []):
            same = len(others) == len(masks) and all(a is b for a, b in zip(others, masks, strict=True))
            if same and known == key:
                return found
        return None
