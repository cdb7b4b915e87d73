"""The laws over a small model of every family of torchvision, timm and Hugging Face."""

from __future__ import annotations

import functools

import pytest
import torch
from families import FAMILIES, TIMM, TIMM_EXCEPTIONS, TORCHVISION, Family
from torch import Tensor, nn

from layermask.laws import LAWS, leaves
from layermask.removal import LayerMasking
from layermask.samples import masks

BY_NAME = {family.name: family for family in FAMILIES}


@functools.lru_cache(maxsize=1)
def built(name: str) -> tuple[nn.Module, Tensor]:
    return BY_NAME[name].build()


def family_parameters() -> list:
    def slow(family: Family) -> tuple:
        return (pytest.mark.slow,) if family.slow else ()

    return [pytest.param(family.name, marks=slow(family), id=family.name) for family in FAMILIES]


# The family is the outer parameter, so that the tests of one follow each other and its model is built once.
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", family_parameters())
def test_law(name: str, law: str) -> None:
    result = LAWS[law](*built(name), 0)
    assert result.passed, f"{result.error:.1e} {result.detail}"


@pytest.mark.parametrize("name", family_parameters())
def test_the_answer_depends_on_image_and_mask(name: str) -> None:
    """Otherwise the laws above would hold of anything."""
    model, images = built(name)
    visible = masks(images, ["coarse", "block"], seed=0)
    with torch.no_grad():
        plain, masked = (next(leaves(out)) for out in (model(images), LayerMasking(model)(images, visible)))
    assert isinstance(plain, Tensor) and isinstance(masked, Tensor)
    assert plain.std(dim=0).mean() > 0.1 * plain.std()
    assert ((plain - masked).abs().amax(dim=1) > 0.01 * plain.std()).all()


def test_every_torchvision_family_is_there() -> None:
    from torchvision import models

    def files(names: list[str]) -> set[str]:
        return {models.get_model_builder(name).__module__ for name in names}

    assert files(list(TORCHVISION)) == files(models.list_models(module=models))


def test_every_timm_model_file_is_there() -> None:
    import timm

    assert set(TIMM) | set(TIMM_EXCEPTIONS) == set(timm.list_modules())


def test_randomised_weights_depend_on_the_seed_only() -> None:
    family = BY_NAME["torchvision/mobilenet_v3_small"]
    (first, _), (again, _), (other, _) = family.build(), family.build(), family.build(seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.features[0][0].weight, other.features[0][0].weight)


def test_randomised_weights_hide_nothing() -> None:
    """No statistic, bias, scale or head is left at the zeros and ones that models start from."""
    for name in ("torchvision/resnet18", "timm/cait", "timm/beit", "hf/ConvNext"):
        for key, value in built(name)[0].state_dict().items():
            if value.is_floating_point() and value.numel() > 1:
                assert value.std() > 0.01, f"{name} {key}"
