"""The choice between two removals by the mask: its feature by hand, the mixing, and what is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from layermask import InputError, LayerMasking, Settings
from layermask.check.samples import masks, sample_images
from layermask.removal import ConstantFill, Greyout
from layermask.removal.adaptive import Adaptive, open_share

IMAGES = sample_images(6, (3, 28, 28), seed=1)


def slow_share(visible: Tensor, pixels: int) -> float:
    """Of the mask (H, W), cell by cell, from the definition."""
    h, w = visible.shape

    def around(i: int, j: int) -> list[tuple[int, int]]:
        rows, columns = range(i - pixels, i + pixels + 1), range(j - pixels, j + pixels + 1)
        return [(a, b) for a in rows for b in columns if 0 <= a < h and 0 <= b < w]

    near = {(i, j) for i in range(h) for j in range(w) if any(visible[a, b] for a, b in around(i, j))}
    hidden = [(i, j) for i in range(h) for j in range(w) if not visible[i, j]]
    closed = [(i, j) for i, j in hidden if all(cell in near for cell in around(i, j))]
    return 1 - len(closed) / len(hidden) if hidden else 0.0


@pytest.mark.parametrize("size", [(28, 28), (19, 40)])
def test_the_open_share_is_that_of_the_definition(size: tuple[int, int]) -> None:
    images = sample_images(8, (3, *size), seed=2)
    visible = masks(images, ["patches", "coarse", "block", "pixel"], seed=3)
    visible[0], visible[1] = True, False
    visible[2] = False
    visible[2, :, 3:9, 4:12] = True
    visible[3] = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)) < 0.06
    scale = min(size) / 224
    each = [[slow_share(mask[0], round(reach * scale)) for mask in visible] for reach in (16, 32)]
    wanted = torch.tensor(each).mean(0)
    assert_close(open_share(visible, (16, 32)), wanted)
    assert wanted[0] == 0 and wanted[1] == 1 and wanted[2] > 0.9
    assert any(0.05 < share < 0.95 for share in wanted)


def test_signals_and_volumes_have_one_too() -> None:
    signal = torch.ones(3, 1, 112, dtype=torch.bool)
    signal[0, :, 40:56] = False  # half of it is reached from either side, by 8 of 16
    signal[1, :, 40:65] = False
    signal[2, :, 40:80] = False
    assert_close(open_share(signal), torch.tensor([0.0, 0.6, 1.0]))  # by 8, 10, 12, 14 and 16
    volume = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    assert open_share(volume).tolist() == [1]


class Counting(nn.Module):
    """An operator that answers with a number, and keeps what it was asked."""

    def __init__(self, model: nn.Module, number: float) -> None:
        super().__init__()
        self.model, self.number = model, number
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor, visible: Tensor, *args: Tensor) -> Tensor:
        self.asked.append(visible)
        count = max(len(images), len(visible))
        return torch.full((count, 2), self.number) + sum(x.view(-1, 1) for x in args)


def mixed_masks() -> Tensor:
    """Everything, small holes, a box, and what lies between."""
    visible = torch.ones(4, 1, 28, 28, dtype=torch.bool)
    visible[1, :, 4:7, 4:7] = False
    visible[2] = False
    visible[2, :, 8:14, 8:14] = True
    visible[3, :, 6:12, 6:12] = False
    return visible


def counting() -> tuple[Adaptive, Counting, Counting]:
    model = nn.Identity()
    first, second = Counting(model, 1.0), Counting(model, 2.0)
    return Adaptive(model, first, second), first, second


def test_answers_are_mixed_in_proportion() -> None:
    removed, first, second = counting()
    visible = mixed_masks()
    share = open_share(visible)
    assert share[1] < 0.15 < share[3] < 0.6 < share[2]
    wanted = 1 + ((share - 0.15) / 0.45).clamp(0, 1)
    assert_close(removed(IMAGES[:4], visible), wanted[:, None].expand(-1, 2))
    (asked,), (others,) = first.asked, second.asked
    assert torch.equal(others, visible[2:])  # of the others nothing is asked twice
    assert torch.equal(asked[[0, 1, 3]], visible[[0, 1, 3]]) and not asked[2].any()


def test_one_operator_is_asked_where_it_decides() -> None:
    removed, first, second = counting()
    assert removed(IMAGES[:2], mixed_masks()[:2]).eq(1).all() and not second.asked
    assert removed(IMAGES[:1], mixed_masks()[2:3]).eq(2).all() and len(first.asked) == 1


def test_one_image_many_masks_and_more_inputs() -> None:
    removed, *_ = counting()
    visible, more = mixed_masks(), torch.tensor([0.0, 10.0, 20.0, 30.0])
    found = removed(IMAGES[:1], visible)
    assert_close(found, removed(IMAGES[:1].expand(4, -1, -1, -1), visible))
    assert_close(removed(IMAGES[:4], visible, more), found + more[:, None])
    assert_close(removed(IMAGES[:4], visible[3:]), found[3:].expand(4, -1))


def test_the_answer_has_no_jump() -> None:
    """A square hole that grows moves the weight in steps, up to a cut-out."""
    visible = torch.ones(40, 1, 112, 112, dtype=torch.bool)
    for row in range(40):
        visible[row, :, 10 : 10 + row, 50 : 50 + row] = False
    steps = Adaptive(nn.Identity()).weight(visible).diff()
    assert steps.min() == 0 and steps.max() < 0.45 and steps.sum() == pytest.approx(1)


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ]
    return nn.Sequential(*layers).eval()


def test_the_defaults_are_steady_and_the_mean_colour() -> None:
    model, visible = small(), mixed_masks()
    found = Adaptive(model)(IMAGES[:4], visible)
    steady, zero = LayerMasking(model, settings=Settings.steady()), ConstantFill(model)
    assert torch.equal(found[:2], steady(IMAGES[:4], visible)[:2])
    assert_close(found[2:3], zero(IMAGES[2:3], visible[2:3]))
    weight = Adaptive(model).weight(visible)[3]
    both = (1 - weight) * steady(IMAGES[3:4], visible[3:]) + weight * zero(IMAGES[3:4], visible[3:])
    assert_close(found[3:], both)
    nothing = Adaptive(model)(IMAGES[:1], torch.zeros(1, 1, 28, 28))
    assert_close(nothing, model(torch.zeros(1, 3, 28, 28)))


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x.mean((2, 3)), "first": x.mean((1, 2, 3))}


def test_structures_of_tensors_are_mixed() -> None:
    found = Adaptive(Pairs())(IMAGES[:4], mixed_masks())
    assert found.keys() == {"logits", "first"} and found["first"].shape == (4,)
    assert_close(found["logits"].mean(1), found["first"])


class Places(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).argmax(1)


REFUSED: dict[str, Callable[[], object]] = {
    "holes is a Greyout of another model": lambda: Adaptive(nn.Identity(), Greyout(nn.ReLU())),
    "between is": lambda: Adaptive(nn.Identity(), between=(0.5, 0.2)),
    "between\\[1\\]": lambda: Adaptive(nn.Identity(), between=(0.5, 2)),
    "reaches": lambda: Adaptive(nn.Identity(), reaches=(0,)),
}
PLACES = Places()


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        REFUSED[message]()


def test_answers_that_cannot_be_mixed_are_refused() -> None:
    removed = Adaptive(PLACES, ConstantFill(PLACES, 0.5), ConstantFill(PLACES))
    with pytest.raises(InputError, match="float tensors of one row per image"):
        removed(IMAGES[:4], mixed_masks())
