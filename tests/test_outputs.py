"""What numbers are made of a model's answers: by name, by a function, and by what the model ends in."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layermask as lm
from layermask.errors import InputError, ModelError
from layermask.metrics import deletion, remove_segments
from layermask.removal.evidence import problem_of
from layermask.removal.query import Halving, Unmasked
from layermask.removal.reading import OUTPUTS, Reading
from layermask.studies.prepared import rank
from layermask.studies.protocol import chances

SIDE = 16
torch.manual_seed(0)
IMAGE = torch.randn(1, 3, SIDE, SIDE)
CELLS = lm.Grid(8).labels((SIDE, SIDE))
ALL = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
HALF = ALL.clone()
HALF[..., :8] = False


def net(classes: int, *after: nn.Module, bias: tuple[float, ...] = ()) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8, classes), *after).eval()
    if bias:
        model[4].bias.data = torch.tensor(bias)
    return model


class Functional(nn.Module):
    """A model whose own code ends in a function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.model(x))


class Configured(nn.Module):
    """A model that answers and is configured as those of transformers."""

    def __init__(self, model: nn.Module, problem: str | None) -> None:
        super().__init__()
        self.model, self.config = model, SimpleNamespace(problem_type=problem, id2label={0: "a", 1: "b"})

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=self.model(pixel_values))


def of(model: nn.Module, visible: Tensor, output: Any = "probability") -> Tensor:
    """What an explainer says of the picture, by the segments that are visible."""
    removal = lm.LayerMasking(model)
    found = lm.FeatureAblation(lambda images, shown: removal(images, shown & visible), output=output)
    return found.attribute(IMAGE, None, CELLS).prediction


WIDE = (2.0, 1.0, -3.0, -1.0)
KINDS: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "logits": (net(4, bias=WIDE), lambda raw: raw.softmax(1)),
    "log softmax": (net(4, nn.LogSoftmax(1), bias=WIDE), lambda raw: raw.exp()),
    "softmax": (net(4, nn.Softmax(1), bias=WIDE), lambda raw: raw),
    "sigmoid": (net(4, nn.Sigmoid(), bias=WIDE), lambda raw: raw),
    "sigmoid in code": (Functional(net(4, bias=WIDE)), lambda raw: raw),
    "multi-label": (Configured(net(4, bias=WIDE), "multi_label_classification"), lambda raw: raw.sigmoid()),
    "single-label": (
        Configured(net(4, bias=WIDE), "single_label_classification"),
        lambda raw: raw.softmax(1),
    ),
    "no problem type": (Configured(net(4, bias=WIDE), None), lambda raw: raw.softmax(1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("visible", [ALL, HALF])
@pytest.mark.parametrize("wrapped", [False, True])
def test_probabilities_are_the_models_own(kind: str, visible: Tensor, wrapped: bool) -> None:
    model, right = KINDS[kind]
    removal: Any = lm.LayerMasking(model)
    with torch.no_grad():
        answer = removal(IMAGE, visible)
        expected = right(answer.logits if hasattr(answer, "logits") else answer)[0]
    asked: Any = Halving(removal) if wrapped else removal
    both = torch.cat([visible, visible])
    torch.testing.assert_close(chances(asked, IMAGE, both, 1)[1], expected.double(), rtol=1e-5, atol=1e-6)
    found = dict(rank(asked, IMAGE, visible))
    torch.testing.assert_close(torch.tensor([found[i] for i in range(4)]), expected, rtol=1e-5, atol=1e-6)
    explained = lm.FeatureAblation(asked).attribute(IMAGE, [0, 3], CELLS)
    if visible is ALL:
        torch.testing.assert_close(explained.prediction.float(), expected[[0, 3]], rtol=1e-5, atol=1e-6)
        curve = deletion(asked, IMAGE, [explained], steps=1)
        assert bool((curve <= 1).all())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_of_any_precision_are_recognised(kind: torch.dtype) -> None:
    logits = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 3
    rows = logits.softmax(1).to(kind)
    assert Reading(None).table(rows, 64).equal(rows.float())
    assert not Reading(None).table(rows * 0.9, 64).equal(rows.float() * 0.9)


def test_answers_between_0_and_1_alone_are_logits() -> None:
    """Small logits are no probabilities, unless the model ends in a sigmoid."""
    small = lambda images, visible: torch.tensor([[0.2, 0.9, 0.4]]).repeat(len(visible), 1)  # noqa: E731
    found = lm.FeatureAblation(small).attribute(IMAGE, [0, 1, 2], CELLS).prediction
    torch.testing.assert_close(found.float(), torch.tensor([0.2, 0.9, 0.4]).softmax(0))


def test_what_is_probabilities_at_first_has_to_stay_so() -> None:
    def odd(images: Tensor, visible: Tensor) -> Tensor:
        first = visible[:, 0, 0, 0].float()[:, None]  # whole, and in all masks but the first
        return torch.cat([0.5 + (1 - first), 0.5 * first], 1)

    explainer = lm.FeatureAblation(odd, perturbations_per_eval=1)
    reading = Reading(odd)
    assert reading.table(odd(IMAGE, ALL), 1).tolist() == [[0.5, 0.5]]
    with pytest.raises(ModelError, match=r'some are none: say what they are, output="logit"'):
        reading.table(odd(IMAGE, ~ALL), 1)
    with pytest.raises(ModelError, match=r"some are none"):
        explainer.attribute_batch(IMAGE.repeat(2, 1, 1, 1), None, [CELLS.flip(0, 1), CELLS])


def test_one_logit() -> None:
    model = net(1, bias=(0.7,))
    removal = lm.LayerMasking(model)
    with torch.no_grad():
        raw = model(IMAGE)[0]
    for output, right in (("sigmoid", raw.sigmoid()), ("logit", raw)):
        found = lm.FeatureAblation(removal, output=output).attribute(IMAGE, None, CELLS)
        assert found.targets == (0,) and torch.allclose(found.prediction.float(), right)
        assert rank(removal, IMAGE, output=output) == [(0, pytest.approx(float(right)))]
    with pytest.raises(ModelError, match=r'the model has one class.*output="sigmoid".*output="logit"'):
        lm.FeatureAblation(removal).attribute(IMAGE, None, CELLS)
    with pytest.raises(ModelError, match=r'the model has one class, and output="softmax"'):
        lm.FeatureAblation(removal, output="softmax").attribute(IMAGE, None, CELLS)
    for output in OUTPUTS:  # where classes are compared, one will not do
        with pytest.raises(ModelError, match="one score for each picture, and classes are compared"):
            lm.GreedyInsertion(removal, output=output).attribute(IMAGE, None, CELLS)
    with pytest.raises(ModelError, match="one score for each picture, and classes are compared"):
        remove_segments(removal, IMAGE, [CELLS])


def test_regression_that_says_so_is_asked_about() -> None:
    model = Configured(net(3), "regression")
    removal = lm.LayerMasking(model)
    with pytest.raises(ModelError, match=r'problem_type is "regression".*output="logit"'):
        lm.FeatureAblation(removal).attribute(IMAGE, None, CELLS)
    with pytest.raises(ModelError, match='problem_type is "regression"'):
        remove_segments(removal, IMAGE, [CELLS])
    found = lm.FeatureAblation(removal, output="logit").attribute(IMAGE, [0, 1, 2], CELLS)
    assert torch.allclose(found.prediction.float(), model(IMAGE).logits[0])


def test_a_function_is_an_output() -> None:
    model = Configured(net(4), None)
    removal = lm.LayerMasking(model)
    margin = lambda answer: answer.logits.amax(1) - answer.logits.mean(1)  # noqa: E731
    found = lm.FeatureAblation(removal, output=margin).attribute(IMAGE, None, CELLS)
    raw = model(IMAGE).logits[0].detach()
    assert found.targets == (0,) and float(found.prediction) == pytest.approx(float(raw.max() - raw.mean()))
    table = lm.FeatureAblation(removal, output=lambda answer: answer.logits * 2).attribute(IMAGE, 3, CELLS)
    assert float(table.prediction) == pytest.approx(2 * float(raw[3]))
    area = deletion(removal, IMAGE, [found], output=margin)
    assert area.shape == (1, 1) and bool(area.isfinite().all())
    for wrong in (lambda: 0, int, "score", 3):
        with pytest.raises(InputError, match="output is"):
            lm.FeatureAblation(removal, output=wrong)  # type: ignore[arg-type]


def test_shapes_that_are_no_scores_say_what_to_give() -> None:
    maps = lambda images, visible: torch.zeros(len(visible), 4, 8, 8)  # noqa: E731
    with pytest.raises(ModelError, match=r"Region\(class, mask\), or a function of the answer"):
        lm.FeatureAblation(maps).attribute(IMAGE, None, CELLS)
    flat = lambda images, visible: torch.zeros(len(visible))  # noqa: E731
    with pytest.raises(ModelError, match=r"return them as \[:, None\]"):
        lm.FeatureAblation(flat).attribute(IMAGE, None, CELLS)


def test_infinite_pixels_are_named() -> None:
    odd = IMAGE.clone()
    odd[..., :2, :2] = np.inf
    with pytest.raises(ModelError, match="the images hold infinity 12 times"):
        lm.FeatureAblation(lm.LayerMasking(net(4))).attribute(odd, 0, CELLS)


def test_calibration_matches_the_models_own_probabilities() -> None:
    logits, chances_ = net(4, bias=WIDE), net(4, nn.Softmax(1), bias=WIDE)
    pair = IMAGE.repeat(4, 1, 1, 1) * torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1, 1)
    for model in (logits, chances_):
        fitted = lm.Calibrated(lm.removal.MeanFill(model), 4).fit(
            pair, ALL.repeat(4, 1, 1, 1), targets="probabilities", penalty=1e-6, max_iter=500
        )
        found = fitted(pair, ALL).softmax(1)
        torch.testing.assert_close(found, logits(pair).softmax(1), rtol=0.02, atol=0.02)


def test_the_reading_follows_operators_to_the_model() -> None:
    model = Configured(net(4), "multi_label_classification")
    calibrated = lm.Calibrated(lm.LayerMasking(model), 4)
    for removal in (lm.LayerMasking(model), calibrated, Unmasked(model), Halving(lm.LayerMasking(model))):
        assert Reading(removal).problem == "multi_label_classification"
        assert Reading(removal).names() == ("a", "b")
    assert Reading(lambda images, visible: None).problem is None


def test_a_model_that_normalises_is_painted_in_its_own_units() -> None:
    from torchvision.transforms.v2 import Normalize

    model = nn.Sequential(Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), net(4)).eval()
    grey, black = (0.485, 0.456, 0.406), (0.0, 0.0, 0.0)
    for kind, color in ((lm.removal.Greyout, grey), (lm.removal.Blackout, black)):
        with pytest.warns(
            UserWarning, match=r"has a Normalize of its own.*mean=\[0, 0, 0\], std=\[1, 1, 1\]"
        ):
            kind(model)
        removal = kind(model, mean=[0, 0, 0], std=[1, 1, 1])
        painted = removal.painted(torch.rand(1, 3, SIDE, SIDE), HALF)[0, :, 0, 0]
        assert painted.tolist() == pytest.approx(color)
        kind(net(4))  # no warning


@pytest.mark.filterwarnings("error:all values of the images")
@pytest.mark.parametrize("kind", [lm.removal.Greyout, lm.removal.Blackout, lm.removal.EdgeSmoothedFill])
def test_images_from_0_to_1_are_asked_about_once(kind: Any) -> None:
    """A model may normalise in its own code, where no module shows it."""
    images, removal = torch.rand(2, 3, SIDE, SIDE), kind(net(4))
    removal(images * 2 - 1, HALF)  # a model's normalised images have other values too
    removal(images[:1] * 0, HALF)
    with pytest.warns(UserWarning, match=r"lie between 0 and 1, .*mean=\[0, 0, 0\], std=\[1, 1, 1\]") as told:
        first = removal(images, HALF)
    assert [each.filename for each in told] == [__file__]
    assert torch.equal(removal(images, HALF), first)
    kind(net(4), mean=[0, 0, 0], std=[1, 1, 1])(images, HALF)


def test_channels_that_stand_last_are_named() -> None:
    with pytest.raises(InputError, match=r"stand last, give images.permute\(0, 3, 1, 2\)"):
        lm.FeatureAblation(lm.removal.MeanFill(net(4))).attribute(
            torch.rand(1, SIDE, SIDE, 3), 0, lm.Grid(8).labels((SIDE, 3))
        )
    with pytest.raises(InputError, match=r"images must be a torch.Tensor, not list. Use torch.stack."):
        lm.FeatureAblation(lm.LayerMasking(net(4))).attribute_batch([IMAGE[0]], 0, [CELLS])  # type: ignore[arg-type]


def test_a_segmenter_that_ends_in_softmax_is_read_alike_whole_and_masked() -> None:
    """Of a convolution of one pixel, only the region's own segment counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1)).eval()
    image = torch.rand(1, 3, 8, 8)
    segments = torch.arange(8)[:, None] // 4 * 2 + torch.arange(8) // 4
    explainer = lm.FeatureAblation(lm.LayerMasking(model))
    found = explainer.attribute(image, lm.explain.Region(0, segments == 0), segments)
    want = model(image)[0, 0, :4, :4].mean().item()
    assert found.scores[0].tolist() == pytest.approx([want, 0, 0, 0], abs=1e-6)


class Known(nn.Module):
    """A model that holds its loss, as Lightning's modules do, or the record of timm."""

    def __init__(self, model: nn.Module, *losses: nn.Module, classes: int | None = None) -> None:
        super().__init__()
        self.model, self.losses = model, nn.ModuleList(losses)
        if classes is not None:
            self.pretrained_cfg = {"num_classes": classes}

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def transformers_classifier() -> nn.Module:
    """A classifier of transformers that was loaded without a `problem_type`."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=4, layer_type="basic", hidden_act="relu"
    )
    return ResNetForImageClassification(config).eval()


HIGH = (9.0, 0.3, -7.0, 2.0)
DECIDED: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "loss of classes": (lambda: Known(net(4, bias=HIGH), nn.CrossEntropyLoss()), lambda raw: raw.softmax(1)),
    "loss of labels": (lambda: Known(net(4, bias=HIGH), nn.BCEWithLogitsLoss()), torch.sigmoid),
    "loss of one label": (lambda: Known(net(1, bias=(0.3,)), nn.BCEWithLogitsLoss()), torch.sigmoid),
    "loss of probabilities": (
        lambda: Known(nn.Sequential(Functional(net(4, bias=HIGH)), nn.Dropout()).eval(), nn.BCELoss()),
        lambda raw: raw,
    ),
    "log-probabilities": (lambda: net(4, nn.LogSoftmax(1), bias=HIGH), torch.exp),
    "probabilities": (lambda: net(4, nn.Softmax(1), bias=HIGH), lambda raw: raw),
    "ImageNet's classes": (lambda: net(1000), lambda raw: raw.softmax(1)),
    "timm's record": (lambda: Known(net(4, bias=HIGH), classes=4), lambda raw: raw.softmax(1)),
    "transformers": (transformers_classifier, lambda raw: raw.softmax(1)),
}
UNDECIDED: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: net(4, bias=HIGH),
    "two numbers": lambda: net(2),
    "another head on timm's": lambda: Known(net(4, bias=HIGH), classes=1000),
    "losses that disagree": lambda: Known(net(4, bias=HIGH), nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()),
    "sigmoid in a place of its own": lambda: nn.Sequential(
        Functional(net(4, bias=HIGH)), nn.Dropout()
    ).eval(),
}


@pytest.mark.filterwarnings("error:nothing shows")
@pytest.mark.parametrize("kind", DECIDED)
@pytest.mark.parametrize("removal", [lm.LayerMasking, lm.removal.MeanFill])
def test_what_the_evidence_decides_is_read_without_a_word(kind: str, removal: Any) -> None:
    make, right = DECIDED[kind]
    model = make()
    found = lm.FeatureAblation(removal(model)).attribute(IMAGE, 0, CELLS)
    with torch.no_grad():
        raw = model(IMAGE)
    expected = right(raw.logits if hasattr(raw, "logits") else raw)[0, :1]
    torch.testing.assert_close(found.prediction.float(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error:nothing shows")
@pytest.mark.parametrize("kind", UNDECIDED)
def test_what_nothing_decides_is_asked_about_once(kind: str) -> None:
    model = UNDECIDED[kind]()
    removal = lm.LayerMasking(model)
    words = rf'what the model\'s {model(IMAGE).shape[1]} numbers are.*"softmax".*"sigmoid".*"logit"'
    with pytest.warns(UserWarning, match=words) as told:
        found = lm.FeatureAblation(removal).attribute(IMAGE, 0, CELLS)
    assert [each.filename for each in told] == [__file__]
    assert ("all are between 0 and 1" in str(told[0].message)) == kind.startswith("sigmoid")
    with torch.no_grad():
        assert float(found.prediction) == pytest.approx(float(model(IMAGE).softmax(1)[0, 0]), rel=1e-5)
    lm.Lime(lm.LayerMasking(model), n_samples=8).attribute(IMAGE, 0, CELLS)  # the same model: not again


@pytest.mark.filterwarnings("error:nothing shows")
def test_who_says_what_the_numbers_are_is_not_asked() -> None:
    for output, right in (
        ("softmax", lambda z: z.softmax(1)),
        ("sigmoid", torch.sigmoid),
        ("logit", lambda z: z),
    ):
        model = net(4, bias=HIGH)
        found = lm.FeatureAblation(lm.LayerMasking(model), output=output).attribute(IMAGE, 0, CELLS)
        assert float(found.prediction) == pytest.approx(float(right(model(IMAGE))[0, 0].detach()), rel=1e-5)
    says_otherwise = Configured(net(4, bias=HIGH), "multi_label_classification")
    found = lm.FeatureAblation(lm.LayerMasking(says_otherwise), output="softmax").attribute(IMAGE, 0, CELLS)
    raw = says_otherwise(IMAGE).logits.detach()
    assert float(found.prediction) == pytest.approx(float(raw.softmax(1)[0, 0]), rel=1e-5)


def test_a_loss_of_regression_is_asked_about() -> None:
    model = Known(net(3), nn.SmoothL1Loss())
    assert problem_of(model) == ("regression", "loss is SmoothL1Loss")
    with pytest.raises(ModelError, match=r'loss is SmoothL1Loss.*output="logit"'):
        lm.FeatureAblation(lm.LayerMasking(model)).attribute(IMAGE, None, CELLS)
    remove_segments(lm.LayerMasking(model), IMAGE, [CELLS])  # who compares classes has said that they are


@pytest.mark.filterwarnings("error:nothing shows")
def test_classifiers_of_libraries_are_known() -> None:
    import timm
    from torchvision.models import mobilenet_v3_small
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    from torchvision.transforms.v2 import Normalize

    timm_own = timm.create_model("test_resnet.r160_in1k", num_classes=1000)
    assert not Reading(timm_own)._is_of_classes(torch.zeros(1, 7))
    for model, classes in (
        (timm_own, 1000),
        (nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), mobilenet_v3_small()), 1000),
        (lraspp_mobilenet_v3_large(weights_backbone=None), 21),
    ):
        assert Reading(model)._is_of_classes(torch.zeros(1, classes) + 3)


@pytest.mark.filterwarnings("error:nothing shows")
def test_a_removal_without_a_model_is_asked_about_once() -> None:
    answers = lambda images, visible: torch.tensor([[3.0, -1.0]]).repeat(len(visible), 1)  # noqa: E731
    with pytest.warns(UserWarning, match="nothing shows"):
        lm.FeatureAblation(answers).attribute(IMAGE, 0, CELLS)
    lm.FeatureAblation(answers).attribute(IMAGE, 0, CELLS)
