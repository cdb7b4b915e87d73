"""The sparse engine against the dense one, over a small model of every family."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

from layermask.check.laws import engines, leaves
from layermask.check.samples import masks
from layermask.removal.layer_masking import LayerMasking

BY_NAME = {family.name: family for family in FAMILIES}


def sparse(model: nn.Module, images: Tensor, visible: Tensor) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return list(leaves(LayerMasking(model, engine="sparse")(images, visible)))  # type: ignore


@pytest.mark.parametrize("name", [family.name for family in FAMILIES if not family.slow])
def test_engines_agree(name: str) -> None:
    """Compiled to rounding, its twin in torch operators to float64's; and hidden NaN leaves no trace."""
    model, images = BY_NAME[name].build()
    verdict = engines(model, images)
    assert verdict.passed, verdict.detail
    if LayerMasking(model).sparse_engine is None:
        return  # no convolutional network: little of it is sparse
    visible = masks(images, ["patches", "all", "coarse", "none", "pixel"], seed=0)
    poisoned = torch.where(visible, images, math.nan)
    assert all(map(torch.equal, sparse(model, poisoned, visible), sparse(model, images, visible)))
    with contextlib.suppress(RuntimeError):  # a model that casts to float32 on its own
        assert engines(copy.deepcopy(model).double(), images.double()).error <= 1e-10
