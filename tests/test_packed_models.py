"""The packed engine against the dense one, over a small model of every family."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

from layermask.check.laws import deviation, leaves
from layermask.check.samples import masks
from layermask.removal.layers import LayerMasking

BY_NAME = {family.name: family for family in FAMILIES}
MASKS = ["patches", "all", "coarse", "none", "pixel"]


def answer(model: nn.Module, engine: str, images: Tensor, visible: Tensor) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return [out for out in leaves(LayerMasking(model, engine=engine)(images, visible))]  # type: ignore


@pytest.mark.parametrize("name", [family.name for family in FAMILIES if not family.slow])
def test_engines_agree(name: str) -> None:
    """Compiled to rounding, its twin in torch operators to float64's; and hidden NaN leaves no trace."""
    model, images = BY_NAME[name].build()
    visible = masks(images, MASKS, seed=0)
    dense = answer(model, "dense", images, visible)
    packed = answer(model, "packed", images, visible)
    error = deviation(packed, dense)
    if LayerMasking(model).packing is None and error <= 1e-5:
        return  # no convolutional network: little of it is packed
    poisoned = torch.where(visible, images, math.nan)
    assert all(map(torch.equal, answer(model, "packed", poisoned, visible), packed))
    try:
        wide = copy.deepcopy(model).double(), images.double()
        exact = answer(wide[0], "dense", wide[1], visible)
        twin = deviation(answer(wide[0], "packed", wide[1], visible), exact)
    except RuntimeError:  # a model that casts to float32 on its own
        assert error <= 1e-5
        return
    assert twin <= 1e-10
    assert error <= max(1e-5, 8 * deviation(dense, exact))
