"""Every variant of layer masking that the experiments compare keeps the laws that it can."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layermask import LayerMasking, Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))
from variants import FILLINGS, MASKS, VARIANTS, Variant, Varied


class Tiny(nn.Module):
    """A little of all that the real models have: padding, strides, pools, depthwise, residuals, a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.early = nn.Conv2d(12, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 12, 1)
        self.branch = nn.Conv2d(12, 4, 3, padding=1)
        self.late = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 16, 5, stride=2, padding=2)
        self.last = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(nn.functional.pad(x, (0, 1, 0, 1))))))
        x = torch.relu(self.early(x))
        x = x + self.point(torch.relu(self.depthwise(x)))
        x = torch.cat([x, self.branch(x)], 1)
        return self.head(self.mean(self.late(self.last(torch.relu(self.down(x))))).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Tiny().double().eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def visible() -> Tensor:
    """Nothing hidden, half hidden, all but two patches of 8 pixels hidden, all hidden."""
    shown = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.5
    shown[0], shown[2:] = True, False
    shown[2, 0, 3, 3] = shown[2, 0, 8, 8] = True
    return shown.repeat_interleave(8, 2).repeat_interleave(8, 3)


every = pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)


@every
@torch.no_grad()
def test_whole_images_get_the_answer_of_the_model(
    variant: Variant, model: nn.Module, images: Tensor, visible: Tensor
) -> None:
    answers = Varied(model, variant)(images, visible)
    torch.testing.assert_close(answers[:1], model(images)[:1], rtol=1e-12, atol=1e-12)
    assert Varied(model, variant)(images, visible[:1]).equal(model(images))


@every
@torch.no_grad()
def test_hidden_pixels_never_matter(
    variant: Variant, model: nn.Module, images: Tensor, visible: Tensor
) -> None:
    answers = Varied(model, variant)(images, visible)
    assert answers.isfinite().all()
    for other in (torch.nan, torch.inf, 7.0):
        assert Varied(model, variant)(images.where(visible, other), visible).equal(answers)


@every
@torch.no_grad()
def test_an_image_is_answered_alone(
    variant: Variant, model: nn.Module, images: Tensor, visible: Tensor
) -> None:
    operator = Varied(model, variant)
    alone = torch.cat([operator(images[i : i + 1], visible[i : i + 1]) for i in range(len(images))])
    torch.testing.assert_close(operator(images, visible), alone, rtol=1e-10, atol=1e-10)


@every
@torch.no_grad()
def test_a_variant_differs_from_the_paper(
    variant: Variant, model: nn.Module, images: Tensor, visible: Tensor
) -> None:
    """Else its rule is not in force."""
    same = Varied(model, variant)(images, visible).equal(LayerMasking(model)(images, visible))
    assert same == (variant == Variant())


@torch.no_grad()
def test_what_cannot_differ_from_the_paper(model: nn.Module, images: Tensor, visible: Tensor) -> None:
    """More rings than a kept window reads, the majority of two, and zeros for a pool behind a ReLU."""
    paper = LayerMasking(model)(images, visible)
    assert Varied(model, Variant(rings=9))(images, visible).allclose(paper, rtol=1e-12)
    assert Varied(model, Variant(join="majority"))(images, visible).allclose(paper, rtol=1e-12)
    assert Varied(model, Variant(pool="zero"))(images, visible).equal(paper)


@torch.no_grad()
def test_the_preset_is_the_variant_that_was_measured(
    model: nn.Module, images: Tensor, visible: Tensor
) -> None:
    measured = Varied(model, Variant(growth="keep-any", pool="neighbor"))(images, visible)
    preset = LayerMasking(model, settings=Settings.steady())
    assert preset(images, visible).equal(measured)
    assert LayerMasking(model, settings=Settings.steady(), growth="any", pool="nothing")(
        images, visible
    ).equal(LayerMasking(model)(images, visible))


def test_every_choice_is_tried() -> None:
    assert {v.growth for v in VARIANTS.values()} == set(MASKS)
    assert {v.fill for v in VARIANTS.values()} >= set(FILLINGS)
