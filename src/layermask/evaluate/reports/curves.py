"""The curves of segment removal, from its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layermask.evaluate.table import Columns
from layermask.metrics.predictions import Predictions


@dataclass(frozen=True)
class Group:
    """A removal under a segmentation and an order: `curves` (K,) by name at rising `fractions` (K,)."""

    removal: str
    segmentation: str
    order: str
    ranking: str
    images: int
    fractions: Tensor
    curves: dict[str, Tensor]

    @property
    def setting(self) -> tuple[str, str, str, str]:
        return self.removal, self.segmentation, self.order, self.ranking


def curves(columns: Columns) -> list[Group]:
    """Return the curves of accuracy, entropy and unchanged predictions, in the order of the settings."""
    keys = [columns[key].tolist() for key in ("removal", "segmentation", "order")]
    return [_group(columns, group) for group in dict.fromkeys(zip(*keys, strict=True))]


def _group(columns: Columns, group: tuple[str, str, str]) -> Group:
    named = zip(("removal", "segmentation", "order"), group, strict=True)
    matches = [columns[key] == value for key, value in named]
    chosen = matches[0] & matches[1] & matches[2]
    fractions, place = torch.unique(torch.from_numpy(columns["fraction"][chosen]), return_inverse=True)
    # The rows of a picture stand together, its fractions in the order of the settings.
    order = place.view(-1, len(fractions))[0].argsort()

    def grid(name: str) -> Tensor:
        return torch.from_numpy(columns[name][chosen]).view(-1, len(fractions))[:, order]

    found = Predictions(grid("prediction").long(), fractions, labels=grid("label")[:, 0].long())
    values = {
        "accuracy": found.curve("accuracy"),
        "entropy": found.curve("class-entropy"),
        "unchanged": grid("unchanged").double().mean(0),
    }
    return Group(*group, columns["ranking"][chosen][0], len(found.predicted), fractions, values)
