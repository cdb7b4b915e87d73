"""Constant fills, and the table of removals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layermask.errors import InputError
from layermask.removal.constant import Blackout, ConstantFill, Greyout
from layermask.removal.table import REMOVALS, removal
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD


class Net(nn.Module):
    """Small, with a weight for each pixel, so that every hidden pixel matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


@pytest.fixture
def case():
    torch.manual_seed(1)
    return Net().eval(), torch.randn(2, 3, 8, 8), torch.rand(2, 1, 8, 8) < 0.5


MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize(
    ("make", "before"), [(Blackout, torch.zeros(3, 1, 1)), (Greyout, MEAN)], ids=["black", "grey"]
)
def test_the_colour_is_that_of_pixels_before_normalisation(case, make, before):
    model, x, visible = case
    painted = make(model).fill(x, visible) * STD + MEAN
    pixels = x * STD + MEAN
    for image, mask, result in zip(pixels, visible, painted, strict=True):
        for row in range(8):
            for column in range(8):
                want = image[:, row, column] if mask[0, row, column] else before[:, 0, 0]
                torch.testing.assert_close(result[:, row, column], want, atol=1e-6, rtol=0)


def test_grey_is_imagenets_mean_under_any_normalisation(case):
    model, x, visible = case
    painted = Greyout(model, (0.5,) * 3, (0.25,) * 3).fill(x, torch.zeros_like(visible))
    torch.testing.assert_close(painted[0, :, 0, 0] * 0.25 + 0.5, torch.tensor(IMAGENET_MEAN))


def test_grey_of_other_channels_is_the_mean_of_the_data():
    assert Greyout(nn.Identity(), (0.3,), (0.2,)).color.tolist() == [0.0]


@pytest.mark.parametrize("name", REMOVALS)
def test_all_visible_is_the_plain_model_bit_for_bit(case, builtin, name):
    model, x, visible = case
    operator = removal(name, model, builtin.preprocessing)
    assert torch.equal(operator(x, torch.ones_like(visible)), model(x))


@pytest.mark.parametrize("name", REMOVALS)
def test_hidden_pixels_do_not_matter(case, builtin, name):
    model, x, visible = case
    operator = removal(name, model, builtin.preprocessing)
    for junk in (float("nan"), float("inf"), 7.0):
        assert torch.equal(operator(torch.where(visible, x, junk), visible), operator(x, visible))


@pytest.mark.parametrize("name", REMOVALS)
def test_one_image_expands_over_many_masks(case, builtin, name):
    model, x, visible = case
    operator = removal(name, model, builtin.preprocessing)
    torch.testing.assert_close(operator(x[:1], visible)[1:], operator(x[:1], visible[1:]))
    torch.testing.assert_close(operator(x, visible[:1])[1:], operator(x[1:], visible[:1]))


def test_signals_and_volumes(case):
    for dims in (1, 3):
        x = torch.randn(2, 3, *[4] * dims)
        visible = torch.rand(2, 1, *[4] * dims) < 0.5
        painted = ConstantFill(nn.Identity(), torch.tensor([1.0, 2.0, 3.0]))(x, visible)
        want = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, *[1] * dims).expand_as(x)
        hidden = ~visible.expand_as(x)
        assert torch.equal(painted[hidden], want[hidden])
        assert torch.equal(painted[~hidden], x[~hidden])


def test_the_model_is_not_changed(case):
    model, x, visible = case
    before = {key: value.clone() for key, value in model.state_dict().items()}
    operator = Blackout(model)
    operator(x, visible)
    assert operator.model is model
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(key.removeprefix("model.") in before for key in operator.state_dict())


def test_a_mask_that_is_not_binary_is_refused(case):
    model, x, visible = case
    with pytest.raises(ValueError, match="nearest neighbour"):
        Greyout(model)(x, visible.float() * 0.5)


def test_an_unknown_removal_names_the_nearest(case, builtin):
    with pytest.raises(InputError, match=r"unknown removal 'grayout': choose from .*nearest: greyout"):
        removal("grayout", case[0], builtin.preprocessing)
