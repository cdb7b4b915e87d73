"""RISE: the mean output over random masks that show a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments.kinds import Count, Share
from layermask.explain.query_plan import Query, QueryPlan, Segments, by_visibility
from layermask.explain.sampling import SamplingExplainer, chunk_sizes, generator


@dataclass(frozen=True)
class Rise(SamplingExplainer):
    """E[f | pixel shown] - E[f] over random masks (Petsiuk et al. 2018, Eq. 4, with the mean as the zero).

    A coarse grid of about `cells` x `cells`, each cell shown with `probability`, is blown up and shifted by a
    random part of a cell. A pixel is shown or not, so cells keep hard edges; the paper's are blurred, which
    only a blend of colours can express. Scores are those of pixels, or their means over a feature_mask.
    """

    n_samples: Count = 4000
    cells: Count = 7
    probability: Share = 0.5

    name: ClassVar[str] = "RISE"
    needs_segments: ClassVar[bool] = False

    def cost(self, segments: Segments) -> int:
        return self.n_samples

    def plan(self, segments: Segments, prediction: Tensor, targets: Sequence[int]) -> QueryPlan:
        size = tuple(segments.labels.shape)
        shown = torch.zeros(size, dtype=torch.double)
        sums = [torch.zeros(len(targets), *size, dtype=torch.double) for _ in range(2)]
        everything, asked, stopping = torch.zeros(len(targets), dtype=torch.double), 0, self.stopping()
        for index, count in enumerate(chunk_sizes(self.n_samples)):
            masks = self.masks(index, count, size)
            answers = yield _ask(masks, segments.device)
            flat, asked = masks.flatten(1).double(), asked + count
            shown += flat.sum(0).view(size)
            for power, total in enumerate(sums, 1):
                total += (answers.values.T**power @ flat).view_as(total)
            everything += answers.values.sum(0)
            means = segments.mean(sums[0] / shown.clamp(min=1))
            if stopping.possible and stopping.reached(means, _errors(segments, sums, shown)):
                break
        mean = sums[0] / shown.clamp(min=1)
        middle = (everything / asked).view(-1, *[1] * len(size))
        return {
            "scores": segments.mean(torch.where(shown > 0, mean - middle, 0.0)),
            "stderr": _errors(segments, sums, shown),
            "n_samples": asked,
        }

    def masks(self, index: int, count: int, size: tuple[int, ...]) -> Tensor:
        """Return the (count, *size) bool masks of a chunk."""
        draw = generator(self.seed, index)
        cell = [-(-length // self.cells) for length in size]
        grids = [-(-length // side) + 1 for length, side in zip(size, cell, strict=True)]
        masks = torch.rand(count, *grids, generator=draw) < self.probability
        for axis, (length, side) in enumerate(zip(size, cell, strict=True), 1):
            shift = torch.randint(0, side, (count,), generator=draw)
            place = (torch.arange(length) + shift[:, None]) // side  # (count, length)
            shape = [count if a == 0 else length if a == axis else 1 for a in range(masks.ndim)]
            wide = [length if a == axis else n for a, n in enumerate(masks.shape)]
            masks = masks.gather(axis, place.view(shape).expand(wide))
        return masks


def _errors(segments: Segments, sums: list[Tensor], shown: Tensor) -> Tensor:
    """Return the standard errors, from the sums of answers and of their squares where pixels were shown."""
    mean, square = (total / shown.clamp(min=1) for total in sums)
    variance = (square - mean.square()).clamp(min=0) / (shown - 1).clamp(min=1)
    return segments.mean(variance.sqrt())


def _ask(masks: Tensor, device: torch.device) -> Query:
    return by_visibility(masks.flatten(1).sum(1), lambda indices: masks[indices, None].to(device))
