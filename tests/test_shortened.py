"""Models with fewer repeated blocks (`shortened.py`) call torch in every way that the whole models do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from families import ALIKE, FAMILIES, WHOLE, Family
from shortened import shortened
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layermask.check.samples import masks, sample_images
from layermask.core.masked import Masked
from layermask.removal.layer_masking import LayerMasking


class Calls(TorchFunctionMode):
    """Collects the kinds of calls on a pair: function, options, number of axes, and where the mask varies."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[Any] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, Masked) for each in types):
            exact = "conv" in function.__name__ or "pool" in function.__name__
            self.kinds.add((function, kind((args, kwargs or {}), exact)))
        return function(*args, **(kwargs or {}))


def kind(given: Any, exact: bool) -> Any:
    """What a rule may decide by, except sizes, which depend on the width; with `exact`, sizes as well."""
    if isinstance(given, Masked):
        varies = tuple(size > 1 for size in given.visible.shape)
        return (
            "pair",
            kind(given.value, False),
            varies,
            given.is_padding is not None,
            given.softmax_axis is not None,
        )
    if isinstance(given, Tensor):
        return "tensor", given.dtype, given.ndim, tuple(given.shape[2:]) if exact else ()
    if isinstance(given, tuple | list):
        parts = tuple(kind(each, exact) for each in given)
        return ("all", parts[0]) if len(set(parts)) == 1 else parts  # however many a DenseNet concatenates
    if isinstance(given, dict):
        return tuple((name, kind(each, exact)) for name, each in sorted(given.items()))
    if isinstance(given, int) and not isinstance(given, bool):
        return min(given, 32) if exact else (given > 0) - (given < 0)
    return given if isinstance(given, str | bool | None) else type(given)


def calls(family: Family, whole: bool) -> set[Any]:
    images = sample_images(2, family.shape, seed=0)
    removal = LayerMasking(family.fresh(whole=whole), engine="dense")
    with torch.no_grad(), Calls() as seen:
        removal(images, masks(images, ["coarse", "block"], seed=0))
    return seen.kinds


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name not in WHOLE], ids=lambda f: f.name)
def test_no_kind_of_call_is_lost(family: Family) -> None:
    assert calls(family, whole=False) == calls(family, whole=True)


@pytest.mark.slow
def test_the_models_whose_gradients_are_tested_make_every_kind_of_call() -> None:
    found: dict[bool, set[Any]] = {True: set(), False: set()}
    for family in FAMILIES:
        if not family.slow:
            found[family.name in ALIKE] |= calls(family, whole=False)
    assert found[True] <= found[False]


def net(*widths: int) -> nn.Sequential:
    layers = (nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(widths))
    return nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))


def test_blocks_that_repeat_are_cut_to_two_and_then_to_one() -> None:
    assert len(shortened(net(3, 8, 8, 8, 8, 8))) == 3  # from 3 to 8, and two of 8 to 8
    widths = [block[0].out_channels for block in shortened(net(3, 8, 8, 8, 8, 16, 16, 16, 16))]
    assert widths == [8, 8, 8, 16, 16]
    odd = net(8, 8, 8, 8)
    odd[1][0] = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
    assert len(shortened(odd)) == 3
