"""The dense engine never asks a device for a value, which it would have to wait for.

Seen on a CPU, where what is watched takes the reference fill; the fill kernels are not among what is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layermask.check.samples import masks
from layermask.removal.layers import LayerMasking

WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "is_nonzero"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
NAMES = (
    "vgg11_bn resnet18 densenet121 googlenet squeezenet1_1 mobilenet_v3_small efficientnet_b0 vit_b_32 swin_t"
)
BY_NAME = {family.name: family for family in FAMILIES}


class Waits(TorchDispatchMode):
    """Counts the operators whose results a device has to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.partition("::")[2]
        chosen = args[1] if name in INDEXES else []
        if name in WAITS or any(i is not None and i.dtype is torch.bool for i in chosen):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def waits(call: Any, *args: Tensor) -> Counter[str]:
    with torch.no_grad(), Waits() as watching:
        call(*args)
    return watching.found


@pytest.mark.parametrize("name", NAMES.split())
def test_the_dense_engine_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But to see that images hold no NaN."""
    model, images = BY_NAME[f"torchvision/{name}"].build()
    monkeypatch.setattr("layermask.removal.inputs._has_visible_nan", lambda images, visible: False)
    visible = masks(images, ["coarse", "block"], seed=0)
    dense = LayerMasking(model, engine="dense")
    assert waits(dense, images[:1], visible) == waits(model, images[:1])


def test_images_are_looked_at_once() -> None:
    model, images = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 9, 9)
    looked, isnan = [], Tensor.isnan
    removal, visible = LayerMasking(model), torch.rand(2, 1, 9, 9) > 0.5
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Tensor, "isnan", lambda x: looked.append(x.shape) or isnan(x))
        for _ in range(3):
            removal(images, visible)
        assert len(looked) == 1
        removal(images.clone(), visible)
        assert len(looked) == 2


@pytest.mark.parametrize("change", ["in place", "data"])
def test_images_that_change_are_looked_at_again(change: str) -> None:
    images, visible = torch.randn(1, 3, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool)
    removal = LayerMasking(nn.Conv2d(3, 4, 3))
    removal(images, visible)
    if change == "in place":
        images[0, 0, 0, 0] = math.nan
    else:
        images.data = torch.full_like(images, math.nan)
    with pytest.raises(ValueError, match="images hold NaN in visible pixels"):
        removal(images, visible)
