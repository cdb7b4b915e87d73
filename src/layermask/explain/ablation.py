"""One segment at a time: the loss without it, or the gain from it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.explain.explainer import Explainer
from layermask.explain.query_plan import QueryPlan, Segments


@dataclass(frozen=True)
class FeatureAblation(Explainer):
    """f(all shown) - f(all but the segment): captum's FeatureAblation."""

    name: ClassVar[str] = "leave-one-out"

    def cost(self, segments: Segments) -> int:
        return segments.count

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        answers = yield segments.show(~torch.eye(segments.count, dtype=torch.bool))
        return {"scores": prediction[:, None] - answers.values.T, "n_samples": segments.count}


@dataclass(frozen=True)
class KeepOne(Explainer):
    """f(the segment alone) - f(nothing shown)."""

    name: ClassVar[str] = "keep-one"

    def cost(self, segments: Segments) -> int:
        return segments.count + 1

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        nothing = torch.zeros(1, segments.count, dtype=torch.bool)
        answers = yield segments.show(torch.cat([nothing, torch.eye(segments.count, dtype=torch.bool)]))
        return {"scores": (answers.values[1:] - answers.values[0]).T, "n_samples": segments.count + 1}
