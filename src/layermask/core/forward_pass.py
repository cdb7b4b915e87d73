"""What one pass through a model shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

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
