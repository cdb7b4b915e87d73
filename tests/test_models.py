"""The laws over a small model of every family of torchvision, timm and Hugging Face."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import FAMILIES, HUGGING_FACE, HUGGING_FACE_EXCEPTIONS, TIMM, TIMM_EXCEPTIONS, TORCHVISION
from torch import Tensor, nn

from layermask.check import laws
from layermask.check.laws import leaves
from layermask.check.samples import masks
from layermask.removal.layer_masking import LayerMasking

BY_NAME = {family.name: family for family in FAMILIES}


@functools.lru_cache(maxsize=1)
def built(name: str) -> tuple[nn.Module, Tensor]:
    return BY_NAME[name].build()


GROUPS = {
    "answers": ("125", ("dense",)),
    "both": ("1259", laws.JUDGED),
    "gradients and masks": ("34", ("dense",)),
}
"""Laws and engines. test_sparse_models.py has laws 2 and 9 of the sparse engine, of models that are
not slow; the slow group has all of all."""
# Each of these takes ten seconds or more for its gradients alone; their answers are always tested.
COSTLY = {
    *("timm/convmixer", "timm/crossvit", "timm/mobilenetv5", "timm/nasnet", "timm/pnasnet"),
    *("timm/efficientformer", "timm/inception_v4", "timm/coat", "torchvision/wide_resnet50_2"),
}


def cases() -> Iterator[Any]:
    """Every family with every group of laws; one after the other, so that a model is built once for both."""
    for family in FAMILIES:
        for group in GROUPS:
            slow = family.slow or group == "both" or (family.name in COSTLY and group != "answers")
            yield pytest.param(
                family.name, group, marks=[pytest.mark.slow] * slow, id=f"{family.name}-{group.split()[0]}"
            )


@pytest.mark.parametrize(("name", "group"), list(cases()))
def test_laws(name: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, engines = GROUPS[group]
    monkeypatch.setattr(laws, "JUDGED", engines)
    model, images = built(name)
    assert_alive(model, images)
    assert [result for result in laws.check_laws(model, images, tuple(numbers)) if not result.passed] == []


def assert_alive(model: nn.Module, images: Tensor) -> None:
    """The answer depends on the image and on the mask; otherwise the laws would hold of anything."""
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


def test_every_hugging_face_classifier_is_there() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as classes

    known = {name if "ForImage" in name else f"{name}ForImageClassification" for name in HUGGING_FACE}
    for kind, names in classes.items():
        listed = known & {names} if isinstance(names, str) else known & set(names)
        assert bool(listed) != (kind in HUGGING_FACE_EXCEPTIONS), kind


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
