"""Right on a device that is not here: nothing meets tensors of two devices, and the engine waits for none.

Two ways. Torch's fake tensors say "cuda" and hold no values: what needs one on the host raises. `Elsewhere`
holds values, so that all that depends on them runs too, and has to give the CPU's answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from elsewhere import THERE, Elsewhere, moved, with_tensors
from families import FAMILIES, Family
from fitting import made
from tiny import MODELS, SIDE, built
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from layermask.check.laws import leaves
from layermask.check.samples import masks, sample_images
from layermask.explain.registry import EXPLAINERS
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.registry import REMOVALS, removal
from layermask.zoo.preprocessing import Preprocessing

TINY = [Family(f"tiny/{name}", functools.partial(built, name), (3, SIDE, SIDE)) for name in MODELS]
BY_NAME = {family.name: family for family in [*TINY, *FAMILIES]}
QUICK = {
    *(family.name for family in TINY),
    *("torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small", "torchvision/swin_t"),
    *("timm/levit", "timm+/test_resnet", "timm+/test_vit", "timm+/test_convnext", "timm+/test_maxvit"),
}
_PACKS = "torch packs sequences on the host, which asks for their lengths"
RECURRENT = {"timm/sequencer": _PACKS, "tiny/Odd": _PACKS}
NEEDS_VALUES = {"telea": "OpenCV paints on the host", "navier-stokes": "OpenCV paints on the host"}


class Fake:
    """A device of torch's fake tensors."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)  # which count as tensors on the CPU

    def moved(self, x: Tensor) -> Tensor:
        with self.mode:
            return self.mode.from_tensor(x).to("cuda")


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers keeps index tensors for all models of a process: fake ones would reach later tests."""
    if find_spec("transformers"):
        monkeypatch.setattr("transformers.pytorch_utils.is_torchdynamo_compiling", lambda: True)


def families() -> Iterator[Any]:
    for name in BY_NAME:
        yield pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))


@pytest.mark.parametrize("name", list(families()))
def test_the_dense_engine_runs_on_a_gpu(name: str) -> None:
    family, fake = BY_NAME[name], Fake()
    model = with_tensors(family.construct().eval(), fake.moved)
    images = fake.moved(torch.zeros(2, *family.shape))
    visible = fake.moved(torch.ones(2, 1, *family.shape[1:], dtype=torch.bool))
    with fake.mode, torch.no_grad():
        if name in RECURRENT:
            pytest.xfail(RECURRENT[name])
        for out in leaves(LayerMasking(model, engine="dense")(images, visible)):
            assert out.device.type == "cuda"


def network() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 8, 3, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*first, *second).eval()


def operator(name: str, change: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """The removal operator of a model on some device; segments stay on the CPU, as a segmenter gives them."""
    model = VIT.build()[0] if REMOVALS[name].transformers_only else network()
    if REMOVALS[name].fitted:
        found = made(name, model, Preprocessing(), shape=IMAGES.shape[1:])
        return with_tensors(found, change) if change else found
    return removal(name, with_tensors(model, change) if change else model, Preprocessing(), SEGMENTS)


def logits(remove: nn.Module, images: Tensor, visible: Tensor) -> Any:
    return next(leaves(remove(images, visible)))


VIT = next(family for family in FAMILIES if family.name == "hf/ViT")  # of 32 pixels
IMAGES = sample_images(2, (3, 32, 32))
VISIBLE = masks(IMAGES, ["coarse", "pixel"], seed=0)
SEGMENTS = torch.arange(16).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)


@pytest.mark.parametrize("name", sorted(set(REMOVALS) - set(NEEDS_VALUES)))
def test_removal_operators_run_without_values(name: str) -> None:
    fake = Fake()
    remove, images, visible = operator(name, fake.moved), fake.moved(IMAGES), fake.moved(VISIBLE)
    with fake.mode, torch.no_grad():
        answers = [logits(remove, images, mask) for mask in (visible, visible.float())]
    assert all(answer.device.type == "cuda" and len(answer) == 2 for answer in answers)


@pytest.mark.parametrize("name", REMOVALS)
def test_removal_operators_answer_as_on_the_cpu(name: str) -> None:
    with torch.no_grad():
        expected = logits(operator(name), IMAGES, VISIBLE)
        with Elsewhere():
            found = logits(operator(name, moved), moved(IMAGES), moved(VISIBLE))
    assert found.device == THERE
    torch.testing.assert_close(found.held, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_answer_as_on_the_cpu(name: str) -> None:
    method, settings = EXPLAINERS[name], {"perturbations_per_eval": 8}
    features = SEGMENTS if method.needs_segments else None
    if any(field.name == "n_samples" for field in dataclasses.fields(method)):
        settings["n_samples"] = 64

    def explained(change: Callable[[Tensor], Tensor] | None = None) -> Any:
        images = IMAGES[:1] if change is None else change(IMAGES[:1])
        return method(operator("zero", change), **settings).attribute(images, None, features)

    expected = explained()
    with Elsewhere():
        found = explained(moved)
    assert found.scores.device.type == "cpu" and found.prediction.device.type == "cpu"
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.prediction, expected.prediction)


def test_the_other_device_notices_what_a_gpu_would() -> None:
    """The means of these tests: tensors of two devices, and values that the host waits for."""
    with Elsewhere() as device:
        x = moved(torch.ones(2, 3))
        assert torch.equal((x + 1).held, torch.full((2, 3), 2.0)) and not device.waits
        assert (x + torch.tensor(1.0)).device == THERE  # a number, as torch takes it
        with pytest.raises(RuntimeError, match="two devices"):
            _ = x + torch.ones(3)
        numbers = x.new_tensor([1.0, 2.0, 3.0])
        assert numbers.device == THERE and numbers[[0, 2]].held.tolist() == [1, 3]
        assert (x.sum().item(), *device.waits) == (6, "_local_scalar_dense")
        x[0].zero_()
        assert x.held.sum() == 3


def test_fake_tensors_leave_nothing_behind() -> None:
    """What is kept from one call to the next is not made of fake tensors, which would come back later."""
    for name in ("gaussian-noise", "road"):
        fake = Fake()
        images, visible = IMAGES[..., :24], VISIBLE[..., :24]  # of a size of its own
        with fake.mode, torch.no_grad():
            operator(name, fake.moved)(fake.moved(images), fake.moved(visible))
        with torch.no_grad():
            assert operator(name)(images, visible).isfinite().all()
