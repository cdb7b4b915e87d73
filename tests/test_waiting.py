"""The dense engine never asks a device for a value, which it would have to wait for.

Seen on a CPU, where what is watched takes the reference fill; the fill kernels are not among what is counted.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import VisionTransformer

from layermask import FeatureAblation, Grid, KernelShap, TokenDropping
from layermask.check.samples import masks
from layermask.core import inputs
from layermask.removal import Greyout, MeanFill
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.query import query

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
    monkeypatch.setattr("layermask.core.inputs._has_visible_nan", lambda images, visible: False)
    visible = masks(images, ["coarse", "block"], seed=0)
    dense = LayerMasking(model, engine="dense")
    assert waits(dense, images[:1], visible) == waits(model, images[:1])


def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the images that are looked at from here on."""
    looked, look = [], inputs.holds_nan
    monkeypatch.setattr(
        inputs, "holds_nan", lambda images: looked.append(tuple(images.shape)) or look(images)
    )
    return looked


@pytest.mark.parametrize("cls", [LayerMasking, TokenDropping, Greyout])
def test_a_call_looks_at_its_images_once(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = VisionTransformer(32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8).eval()
    removal, looked, images = cls(model), looks(monkeypatch), torch.randn(1, 3, 32, 32)
    for times in (1, 2):
        removal(images, masks(images.expand(2, -1, -1, -1), ["coarse", "block"], seed=0))
        assert looked == [images.shape] * times


def test_a_query_looks_at_its_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, image = looks(monkeypatch), torch.randn(1, 3, 8, 8)
    removal = LayerMasking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    found = KernelShap(removal, n_samples=60, perturbations_per_eval=8).attribute(image, 0, Grid(2)(image))
    assert found.n_samples > 16
    assert len(looked) == 2  # whole, and in parts


def test_a_query_looks_at_each_of_its_images() -> None:
    asked = query(
        LayerMasking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())), "logit"
    )
    images, shown = torch.randn(2, 1, 3, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    images[1] = math.nan
    asked(images[0], shown)
    with pytest.raises(ValueError, match="images hold NaN in visible pixels"):
        asked(images[1], shown)


def test_a_query_finds_nan_where_it_shows() -> None:
    image, labels = torch.randn(1, 3, 8, 8), Grid(4)(torch.zeros(1, 3, 8, 8))
    image[0, 0, 0, 0] = math.nan
    removal = LayerMasking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(ValueError, match="images hold NaN in visible pixels"):
        FeatureAblation(removal).attribute(image, 0, labels)
    asked = query(removal, "logit")
    hidden = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    hidden[..., 0, 0] = False
    for _ in range(2):
        assert asked(image, hidden).isfinite().all()
        with pytest.raises(ValueError, match="images hold NaN in visible pixels"):
            asked(image, ~hidden)


def _numpy(images: Tensor) -> None:
    images.numpy()[0, 0, 0, 0] = math.nan


def _data(images: Tensor) -> None:
    images.data = torch.full_like(images, math.nan)


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "in place": lambda images: images[0, 0, 0, 0].fill_(math.nan),
    "numpy": _numpy,
    "data": _data,
    "through .data": lambda images: images.data[0, 0, 0, 0].fill_(math.nan),
    "behind torch's back": lambda images: ctypes.memmove(images.data_ptr(), struct.pack("f", math.nan), 4),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", [LayerMasking, Greyout, MeanFill])
def test_images_that_change_are_looked_at_again(cls: Any, change: str) -> None:
    images, visible = torch.randn(1, 3, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool)
    removal = cls(nn.Conv2d(3, 4, 3))
    removal(images, visible)
    CHANGES[change](images)
    with pytest.raises(ValueError, match="images hold NaN in visible pixels"):
        removal(images, visible)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nan_is_told_from_what_only_sums_to_it(dtype: torch.dtype) -> None:
    for values, nan in (
        ([1, 2], False),
        ([math.inf, -math.inf], False),
        ([6e4, 6e4], False),
        ([0, math.nan], True),
    ):
        images = torch.tensor(values, dtype=dtype).view(1, 1, 1, 2)
        assert inputs.holds_nan(images) is nan
        assert inputs.holds_nan(images.expand(5, 3, 4, 2)) is nan
