"""Removals of the table that need statistics of the model: made on noise, for tests of operators by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layermask.check.samples import sample_images
from layermask.removal.matched import LEAST_IMAGES, Matched
from layermask.removal.registry import REMOVALS, removal
from layermask.zoo.preprocessing import Preprocessing


def made(
    name: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    segments: Tensor | None = None,
    shape: Sequence[int] = (3, 16, 16),
) -> nn.Module:
    """The operator of a name; one that is fitted has statistics of noise of the images' shape."""
    entry = REMOVALS[name]
    if not entry.fitted:
        return removal(name, model, preprocessing, segments)
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    noise = sample_images(LEAST_IMAGES, tuple(shape), seed=5).to(kind)
    was_training = model.training
    matched = Matched(model.eval()).fit(noise)
    model.train(was_training)
    matched.training = was_training
    return entry.over(matched)
