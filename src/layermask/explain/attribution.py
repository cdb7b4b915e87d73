"""`Attribution`: what an explainer found for one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Attribution:
    """One score per target class (T) and segment (S): positive supports the class, negative detracts.

    `scores` (T, S) float64, in units of the explained output; `segments` (H, W) int64; `prediction` (T,) the
    explained output for the whole picture; `intercept` and `r2` (T,) of the linear surrogate.
    """

    scores: Tensor
    segments: Tensor
    targets: tuple[int, ...]
    prediction: Tensor
    intercept: Tensor
    r2: Tensor
    settings: Mapping[str, Any] = field(default_factory=dict)

    def heatmap(self, row: int = 0) -> Tensor:
        """Return the (H, W) scores of the target in `row`."""
        return self.scores[row][self.segments]
