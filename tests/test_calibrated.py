"""MCal: an affine head over a removal operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermask import Calibrated
from layermask.errors import InputError
from layermask.removal import Greyout
from layermask.removal.calibrated import best_affine
from layermask.zoo.preprocessing import IMAGENET_MEAN

CLASSES = 4


class Net(nn.Module):
    """Tells images by their mean colour in four quarters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        return 3 * self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture
def removal() -> Greyout:
    """Black for grey: a bias towards some classes, that grows with what is hidden."""
    return Greyout(Net().eval(), tuple(m - 0.4 for m in IMAGENET_MEAN))


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.randn(300, 3, 2, 2, generator=generator), size=(16, 16))


def test_it_begins_as_the_operator(removal, images):
    visible = torch.rand(300, 1, 16, 16) < 0.5
    for diagonal in (False, True):
        begun = Calibrated(removal, CLASSES, diagonal=diagonal)
        assert torch.equal(begun(images, visible), removal(images, visible))


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_it_corrects_the_bias(removal, images, diagonal):
    whole = removal.model(images).argmax(1)
    fitted = Calibrated(removal, CLASSES, diagonal=diagonal).fit(images[:200], 0.4)
    visible = torch.rand(100, 1, 16, 16, generator=torch.Generator().manual_seed(5)) < 0.4
    agreed = [
        float((each(images[200:], visible).argmax(1) == whole[200:]).float().mean())
        for each in (removal, fitted)
    ]
    assert agreed[1] > agreed[0] + 0.2, agreed
    losses = [F.cross_entropy(each(images[200:], visible), whole[200:]) for each in (removal, fitted)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
def test_the_minimum_is_the_minimum(diagonal, soft):
    """The gradient of the loss, written plainly in W and b, vanishes."""
    torch.manual_seed(0)
    logits = 5 * torch.randn(60, CLASSES, dtype=torch.double) + 2
    goals = torch.randn(60, CLASSES, dtype=torch.double).softmax(1) if soft else torch.randint(CLASSES, (60,))
    weight, bias = (x.requires_grad_() for x in best_affine(logits, goals, diagonal, 0.01))
    corrected = logits * weight + bias if diagonal else logits @ weight.T + bias
    identity = torch.ones(CLASSES) if diagonal else torch.eye(CLASSES)
    spread, mean = logits.std(correction=0), logits.mean(0)
    centre = (weight - identity) * mean if diagonal else (weight - identity) @ mean
    drift = (spread * (weight - identity)).square().sum() + (bias + centre).square().sum()
    loss = F.cross_entropy(corrected, goals) + 0.01 * drift / CLASSES
    for slope in torch.autograd.grad(loss, [weight, bias]):
        assert slope.abs().max() < 1e-5


def test_a_large_penalty_leaves_the_identity(removal, images):
    fitted = Calibrated(removal, CLASSES).fit(images, 0.4, penalty=1e6)
    torch.testing.assert_close(fitted.weight, torch.eye(CLASSES), atol=1e-4, rtol=0)


def test_the_fit_is_the_same_for_a_seed_and_any_batch_size(removal, images):
    one, two, other = (
        Calibrated(removal, CLASSES).fit(images, repeats=2, seed=seed, batch_size=size)
        for seed, size in ((0, 32), (0, 7), (1, 32))
    )
    torch.testing.assert_close(one.weight, two.weight, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.weight, other.weight, atol=1e-3)


def test_labels_masks_and_progress(removal, images):
    labels = torch.zeros(300, dtype=torch.int64)
    done = []
    visible = torch.rand(1, 1, 16, 16) < 0.5
    fitted = Calibrated(removal, CLASSES).fit(images, visible, labels=labels, show_progress=done.append)
    assert (fitted(images, visible).argmax(1) == 0).all()
    assert sum(done) == 300
    soft = Calibrated(removal, CLASSES).fit(images, visible, targets="probabilities")
    assert soft.weight.isfinite().all()


def test_the_model_and_operator_do_not_change(removal, images):
    before = {key: value.clone() for key, value in removal.state_dict().items()}
    fitted = Calibrated(removal, CLASSES).fit(images, 0.5)
    assert fitted.model is removal.model
    assert all(torch.equal(before[key], value) for key, value in removal.state_dict().items())
    assert not any(parameter.grad is not None for parameter in fitted.parameters())


def test_the_gradient_reaches_the_image(removal, images):
    fitted = Calibrated(removal, CLASSES).fit(images, 0.5)
    visible = torch.rand(2, 1, 16, 16) < 0.5
    x = images[:2].clone().requires_grad_()
    fitted(x, visible)[:, 0].sum().backward()
    assert x.grad.any() and not x.grad.masked_fill(visible, 0).any()


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_saved_and_loaded(removal, images, diagonal, tmp_path):
    fitted = Calibrated(removal, CLASSES, diagonal=diagonal).fit(images, 0.5)
    fitted.save(tmp_path / "head.safetensors")
    again = Calibrated.load(tmp_path / "head.safetensors", removal)
    visible = torch.rand(300, 1, 16, 16) < 0.5
    assert again.diagonal == diagonal
    assert torch.equal(again(images, visible), fitted(images, visible))
    with pytest.raises(InputError, match="calibrates 4 classes, and the model has 5"):
        Calibrated.load(tmp_path / "head.safetensors", removal, classes=5)


def test_files_that_are_no_calibration(removal, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="is not a readable calibration"):
        Calibrated.load(tmp_path / "none.safetensors", removal)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="is not a readable calibration"):
        Calibrated.load(tmp_path / "text", removal)
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)}, tmp_path / "odd")
    with pytest.raises(InputError, match=r"holds .*\(3, 4\).*, and a calibration holds"):
        Calibrated.load(tmp_path / "odd", removal)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visible": 1.5}, "visible is 1.5: give a number from 0 to 1"),
        ({"targets": "logits"}, "targets is 'logits': choose class or probabilities"),
        ({"repeats": 0}, "repeats is 0: give 1 or more"),
        ({"penalty": -1.0}, "penalty is -1.0: give a number of 0 or more"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be int64 of shape \(300,\)"),
        ({"labels": torch.full((300,), 4)}, "go from 4 to 4, and the model's classes are 0 to 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_do_not_fit_are_refused(removal, images, settings, message):
    with pytest.raises(InputError, match=message):
        Calibrated(removal, CLASSES).fit(images, **settings)


def test_another_number_of_classes_is_refused(removal, images):
    with pytest.raises(InputError, match=r"takes logits \(N, 7\), and the operator returned \(300, 4\)"):
        Calibrated(removal, 7)(images, torch.ones(300, 1, 16, 16, dtype=torch.bool))
    with pytest.raises(InputError, match="classes is 1: give 2 or more"):
        Calibrated(removal, 1)
