"""The laws over a small model of every family of torchvision, timm and Hugging Face.

The dense engine is judged by laws 1 to 5, the sparse one by law 9 and by NaN in hidden pixels. The slow tests
judge both engines by every law, on whole models: in the others, repeated blocks are cut (`shortened.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from families import (
    ALIKE,
    FAMILIES,
    HUGGING_FACE,
    HUGGING_FACE_EXCEPTIONS,
    TIMM,
    TIMM_EXCEPTIONS,
    TORCHVISION,
)
from torch import Tensor, nn

from layermask.check import laws
from layermask.check.laws import leaves
from layermask.check.samples import masks
from layermask.removal.layer_masking import LayerMasking

BY_NAME = {family.name: family for family in FAMILIES}


@functools.lru_cache(maxsize=1)
def built(name: str, whole: bool = False) -> tuple[nn.Module, Tensor]:
    return BY_NAME[name].build(whole=whole)


def cases(groups: str, slow: bool = False) -> Iterator[Any]:
    """Every family with every group; one after the other, so that a model is built once for all of them."""
    for family in FAMILIES:
        for group in groups.split():
            costly = group == "gradients" and family.name in {"timm/nasnet", *ALIKE}
            marks = [pytest.mark.slow] * (slow or family.slow or costly)
            yield pytest.param(family.name, group, marks=marks, id=f"{family.name}-{group}")


@pytest.mark.parametrize(("name", "group"), list(cases("answers gradients engines")))
def test_laws(name: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = built(name)
    if group == "engines":
        assert_engines_agree(model, images)
    else:
        assert_lawful(model, images, group, ("dense",), monkeypatch)


@pytest.mark.parametrize(("name", "group"), list(cases("answers gradients", slow=True)))
def test_laws_of_whole_models(name: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = laws.JUDGED if group == "answers" else ("dense",)
    assert_lawful(*built(name, whole=True), group, engines, monkeypatch)


def assert_lawful(
    model: nn.Module, images: Tensor, group: str, engines: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laws, "JUDGED", engines)
    if group == "answers":
        assert_alive(model, images)
    asked = {"answers": "1259" if "sparse" in engines else "125", "gradients": "34"}[group]
    assert [result for result in laws.check_laws(model, images, tuple(asked)) if not result.passed] == []


def assert_engines_agree(model: nn.Module, images: Tensor) -> None:
    """Compiled to rounding, its twin in torch operators to float64's; and hidden NaN leaves no trace."""
    verdict = laws.engines(model, images)
    assert verdict.passed, verdict.detail
    if LayerMasking(model).sparse_engine is None:
        return  # no convolutional network: little of it is sparse
    visible = masks(images, ["patches", "all", "coarse", "none", "pixel"], seed=0)
    poisoned = torch.where(visible, images, math.nan)
    assert all(map(torch.equal, sparse(model, poisoned, visible), sparse(model, images, visible)))
    with contextlib.suppress(RuntimeError):  # a model that casts to float32 on its own
        assert laws.engines(copy.deepcopy(model).double(), images.double()).error <= 1e-10


def sparse(model: nn.Module, images: Tensor, visible: Tensor) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return list(leaves(LayerMasking(model, engine="sparse")(images, visible)))  # type: ignore


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
