"""The bundled photograph as experiments show it, and holes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import layermask
from layermask.io.overlay import hidden_picture
from layermask.zoo import Preprocessing

PICTURE = Path(layermask.__file__).parent / "assets" / "chelsea.jpg"
"""A cat; of no licence that forbids to show it, other than the images that the tables are from."""


def image_of(preprocessing: Preprocessing, x: Tensor) -> Any:
    """Return what the model sees as pixels (H, W, 3) uint8."""
    import numpy as np

    return np.asarray(preprocessing.picture(x))


def patches(hidden: float, seed: int, size: int = 224, patch: int = 16) -> Tensor:
    """Return a mask (1, 1, size, size) with this share of the patches hidden."""
    cells = size // patch
    order = torch.randperm(cells**2, generator=torch.Generator().manual_seed(seed))
    visible = (order >= round(hidden * cells**2)).view(1, 1, cells, cells)
    return visible.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def board(values: Tensor, visible: Tensor, limit: float) -> Any:
    """Return a map (h, w) in grey, white at `limit`, with a checkerboard where it is hidden."""
    grey = (255 * (values / limit).clamp(0, 1)).round().to(torch.uint8)
    return hidden_picture(grey[..., None].expand(-1, -1, 3).numpy(), visible, cell=1)
