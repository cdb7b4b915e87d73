"""Operators of torchvision under masks: laws 1, 2 and 4, and what partly visible boxes and windows give."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layermask import Masked
from layermask.testing.rules import Arguments, Trial, difference, random_masks

torchvision = pytest.importorskip("torchvision")
ops = torch.ops.torchvision


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, WIDE = drawn(2, 4, 8, 9), drawn(2, 8, 8, 9)
BOXES = torch.tensor([[0, 0.5, 1, 5, 6.5], [1, -2, -2, 4, 3], [1, 2, 2, 2.1, 2.1], [0, 30, 30, 40, 40]])
W, OFFSET, WEIGHING = drawn(6, 2, 3, 3, seed=1), drawn(2, 36, 8, 9, seed=2), drawn(2, 18, 8, 9, seed=3)
GEOMETRY = (1, 1, 1, 1, 1, 1, 2, 2)
CORNERS = torch.tensor([[0, 0, 4, 4], [0, 0.5, 4, 4.5], [5, 5, 8, 8], [5, 5, 8, 8.5], [1.0, 0, 2, 9]])
SAMPLES: dict[str, Arguments] = {
    "roi_align": Arguments(X, BOXES, 1.0, 2, 3, -1, False),
    "roi_align, aligned": Arguments(X, BOXES, 0.5, 2, 2, 2, True),
    "roi_pool": Arguments(X, BOXES, 1.0, 2, 2),
    "ps_roi_align": Arguments(WIDE, BOXES, 1.0, 2, 2, -1),
    "ps_roi_pool": Arguments(WIDE, BOXES, 1.0, 2, 2),
    "deform_conv2d": Arguments(X, W, OFFSET, X[:, :0, :1, :1], drawn(6), *GEOMETRY, False),
    "deform_conv2d, weighed": Arguments(X, W, OFFSET, WEIGHING, drawn(6), *GEOMETRY, True),
    "nms": Arguments(CORNERS, torch.tensor([0.5, 0.9, 0.3, 0.8, 0.7]), 0.5),
}
MASKED = {
    "roi": [[0], [1], [0, 1]],
    "ps_": [[0], [1], [0, 1]],
    "def": [[0], [2], [0, 2, 3]],
    "nms": [[0], [1], [0, 1]],
}
CASES = [
    pytest.param(getattr(ops, name.split(",")[0]), args, places, id=f"{name} {places}")
    for name, args in SAMPLES.items()
    for places in MASKED[name[:3]]
]


@pytest.mark.parametrize("function, args, places", CASES)
def test_full_mask_is_the_plain_operation(function: Callable, args: Arguments, places: list[int]) -> None:
    for whole in (True, False):
        full = {
            i: Masked(x, torch.ones(x.shape if whole else [1] * x.ndim, dtype=torch.bool))
            for i in places
            for x in [args.leaves[i]]
        }
        pairs = zip(args.call(function, full), args.call(function, {}), strict=True)
        assert not any(difference(ours, plain) for ours, plain in pairs)


@pytest.mark.parametrize("function, args, places", CASES)
def test_laws_of_the_mask(function: Callable, args: Arguments, places: list[int]) -> None:
    for seed in range(3):
        for narrow in (False, True):
            trial = Trial(function, args, random_masks(args, places, seed, narrow))
            assert not trial.leaks(1.5) and not trial.leaks(math.nan)
            assert function is ops.nms or not trial.hides()  # more boxes: other ones stay
            assert not trial.depends_on_width()


def left_half() -> Masked:
    visible = torch.zeros(2, 1, 8, 9, dtype=torch.bool)
    visible[..., :4] = True
    return Masked(torch.where(visible, X, math.nan), visible)


def test_a_box_that_is_partly_visible_has_the_mean_of_its_visible_part() -> None:
    x = left_half()
    box = torch.tensor([[0, 0.0, 0, 7, 7], [0, 5.0, 0, 7, 7]])
    out = ops.roi_align(Masked(torch.ones_like(x.value), x.visible), box, 1.0, 2, 2, 2, True)
    assert torch.allclose(out.value[out.visible.expand(out.value.shape)], torch.ones(()))
    assert out.visible[0, 0].tolist() == [[True, True]] * 2 and not out.visible[1].any()
    pooled = ops.roi_pool(x, box, 1.0, 1, 1)[0]
    assert torch.equal(pooled.value[0, :, 0, 0], X[0, :, :, :4].amax((1, 2)))


def test_a_deformed_convolution_that_moves_nothing_is_a_convolution() -> None:
    x = left_half()
    rest = (torch.zeros(2, 0, 1, 1), drawn(6), *GEOMETRY, False)
    out = ops.deform_conv2d(x, W, torch.zeros(2, 36, 8, 9), *rest)
    plain = F.conv2d(x, W, drawn(6), padding=1, groups=2)
    assert torch.equal(out.visible, plain.visible)
    shown = plain.visible.expand(plain.value.shape)
    assert torch.allclose(out.value[shown], plain.value[shown], atol=1e-5)


def test_hidden_boxes_neither_stay_nor_push_others_out() -> None:
    boxes, scores = CORNERS, torch.tensor([0.5, math.nan, 0.3, 0.8, 0.7])
    shown = torch.tensor([True, False, True, True, True])
    assert ops.nms(boxes, Masked(scores, shown), 0.5).tolist() == [3, 4, 0]
    assert ops.nms(Masked(boxes, shown[:, None]), scores, 0.5).tolist() == [3, 4, 0]
    assert ops.nms(boxes, Masked(scores, shown & False), 0.5).tolist() == []


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_samples_at_hidden_places_are_hidden(mode: str) -> None:
    grid = drawn(2, 5, 6, 2).tanh()
    args = Arguments(X, grid, mode, "zeros", False)
    full = {i: Masked(args.leaves[i], torch.ones([1] * 4, dtype=torch.bool)) for i in (0, 1)}
    assert not difference(*args.call(F.grid_sample, full), *args.call(F.grid_sample, {}))
    for places in ([1], [0, 1]):
        for seed in range(3):
            trial = Trial(F.grid_sample, args, random_masks(args, places, seed, seed == 1))
            assert not (
                trial.leaks(1.5) or trial.leaks(math.nan) or trial.hides() or trial.depends_on_width()
            )
    shown = torch.rand(2, 5, 6, 1) < 0.5
    out = F.grid_sample(X, Masked(grid, shown), mode, "zeros", False)
    assert torch.equal(out.visible, shown.movedim(-1, 1))
