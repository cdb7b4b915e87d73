"""What the tests of the adapters share: a small model, images, and removals whose answers are known."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import torch
from torch import Tensor, nn

from layermask.segment.segmenters import Grid

SIDE, CELL, CLASSES = 16, 4, 5
SEGMENTS = Grid(8)(torch.empty(SIDE, SIDE))  # 4 segments
EIGHT = torch.arange(SIDE)[:, None] // 8 * 4 + torch.arange(SIDE) // 4  # 8 segments, of 8 x 4 pixels


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES)
    body = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()
    model = nn.Sequential(*body, *head).eval().requires_grad_(False)
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=2 * layer.weight[0].numel() ** -0.5)
    return model


def some_images(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def shown(labels: Tensor, segments: list[int]) -> Tensor:
    """Return the (1, 1, H, W) mask that shows these segments only."""
    return torch.isin(labels, torch.tensor(segments, dtype=torch.long))[None, None]


class Additive(nn.Module):
    """A removal whose answer is a sum over the visible segments, so that any Shapley value is known."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels = labels
        generator = torch.Generator().manual_seed(3)
        self.worth = torch.randn(int(labels.max()) + 1, CLASSES, generator=generator)

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        assert visible.dtype is torch.bool and len(images) == len(visible)
        cells = nn.functional.one_hot(self.labels).flatten(0, 1).float()
        share = visible.flatten(1).float() @ cells / cells.sum(0)
        return images.mean((1, 2, 3))[:, None] * (share @ self.worth) + 0.5


def shapley(removal, image: Tensor, labels: Tensor, target: int) -> Tensor:
    """Return Shapley values by their definition: the mean gain of a segment over all orders."""
    count = int(labels.max()) + 1
    value = {}
    for size in range(count + 1):
        for subset in combinations(range(count), size):
            value[subset] = removal(image, shown(labels, list(subset)))[0, target].double()
    out = torch.zeros(count, dtype=torch.double)
    for subset, before in value.items():
        weight = factorial(len(subset)) * factorial(count - len(subset) - 1) if len(subset) < count else 0
        for new in set(range(count)) - set(subset):
            gain = value[tuple(sorted((*subset, new)))] - before
            out[new] += weight / factorial(count) * gain
    return out


def of_segments(attribution: Tensor, labels: Tensor) -> Tensor:
    """Return the (n_segments,) scores of a map (H, W), after checking that it is constant on each."""
    scores = torch.stack([attribution[labels == label][0] for label in range(int(labels.max()) + 1)])
    torch.testing.assert_close(attribution, scores[labels], rtol=0, atol=0)
    return scores
