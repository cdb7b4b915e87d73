"""What of an answer is explained: classes, regions, boxes, similarities and functions, by slow twins."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import layermask as lm
from layermask.errors import InputError, ModelError
from layermask.explain import Box, Region, Similarity
from layermask.explain.registry import EXPLAINERS
from layermask.metrics import infidelity, insertion
from layermask.removal.query import Halving
from layermask.removal.reading import OUTPUTS, Reading
from layermask.removal.targets import TARGETS

SIDE = 16
torch.manual_seed(0)
IMAGES = torch.randn(2, 3, SIDE, SIDE)
IMAGE = IMAGES[:1]
CELLS = lm.Grid(4).labels((SIDE, SIDE))
PIXELS = lm.Grid(8).labels((SIDE, SIDE))
SEGMENTER = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
COARSE = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4)).eval()
NET = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
CORNER = torch.zeros(SIDE, SIDE, dtype=torch.bool)
CORNER[:6, :8] = True


def shapley(removal: Any, target: Any, **settings: Any) -> lm.Attribution:
    return lm.KernelShap(removal, n_samples=14, **settings).attribute(IMAGE, target, PIXELS)


def test_a_pixel_by_pixel_model_owes_a_region_to_its_pixels_alone() -> None:
    model = nn.Conv2d(3, 2, 1).eval()
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[:8, :8] = True  # the first segment
    with torch.no_grad():
        expected = model(IMAGE)[0, 1, :8, :8].mean()
    found = shapley(lm.LayerMasking(model), Region(1, region), output="logit")
    torch.testing.assert_close(found.scores[0].float(), torch.tensor([float(expected), 0, 0, 0]))


@pytest.mark.parametrize("output", ["probability", "sigmoid", "logit"])
@pytest.mark.parametrize("model", [SEGMENTER, COARSE])
def test_a_region_is_its_slow_twin(model: nn.Module, output: str) -> None:
    with torch.no_grad():
        maps = model(IMAGE)[0]
    maps = {"probability": maps.softmax(0), "sigmoid": maps.sigmoid(), "logit": maps}[output]
    side = maps.shape[-1]
    total = weight = 0.0
    for y in range(side):
        for x in range(side):
            cell = CORNER[
                y * SIDE // side : (y + 1) * SIDE // side, x * SIDE // side : (x + 1) * SIDE // side
            ]
            share = float(cell.float().mean())
            total, weight = total + share * float(maps[2, y, x]), weight + share
    found = lm.FeatureAblation(lm.LayerMasking(model), output=output).attribute(
        IMAGE, Region(2, CORNER), CELLS
    )
    assert float(found.prediction) == pytest.approx(total / weight, abs=1e-5)


def test_a_map_finer_than_the_region() -> None:
    answer = torch.arange(16.0).view(1, 1, 4, 4)
    region = torch.tensor([[True, False], [False, False]])
    found = Region(0, region).read(answer, 1, Reading(None, "logit"))
    assert float(found) == pytest.approx((0 + 1 + 4 + 5) / 4)
    line = Region(0, torch.tensor([True, False])).read(
        torch.arange(4.0).view(1, 1, 4), 1, Reading(None, "logit")
    )
    assert float(line) == 0.5
    with pytest.raises(InputError, match=r"region is of shape \(2, 2\) and the model's map \(1, 1, 4\)"):
        Region(0, region).read(torch.zeros(1, 1, 4), 1, Reading(None, "logit"))


def test_polygons_and_pixels() -> None:
    square = Region.polygon(1, [(2, 1), (6, 1), (6, 5), (2, 5)], (8, 10)).region
    assert square.shape == (8, 10) and int(square.sum()) == 16 and bool(square[1:5, 2:6].all())
    flat = Region.polygon(1, [2, 1, 6, 1, 6, 5, 2, 5], (8, 10)).region
    assert flat.equal(square)  # as COCO has them
    ring = Region.polygon(0, [(0, 0), (9, 0), (9, 8), (4.5, 3.2), (0, 8)], (8, 10)).region
    for y in range(8):
        for x in range(10):
            assert bool(ring[y, x]) == _inside(x + 0.5, y + 0.5, [(0, 0), (9, 0), (9, 8), (4.5, 3.2), (0, 8)])
    pixel = Region.pixel(2, 3, 5, (8, 10)).region
    assert pixel.nonzero().tolist() == [[5, 3]]
    with pytest.raises(InputError, match="region"):
        Region.polygon(1, [(20, 20), (30, 20), (30, 30)], (8, 10))


def _inside(x: float, y: float, corners: list[tuple[float, float]]) -> bool:
    """The winding number, by the angles that the corners are seen under."""
    seen = np.array([complex(a - x, b - y) for a, b in corners])
    return abs(np.angle(np.roll(seen, -1) / seen).sum()) > 1


BOXES = torch.tensor([[0.0, 0, 8, 8], [4, 4, 12, 12], [0, 0, 8, 8]])


def detector(images: Tensor, visible: Tensor) -> list[dict[str, Tensor]]:
    """Finds three boxes, the surer the more of the corner is visible; nothing where nothing is."""
    shares = visible[:, 0, :8, :8].flatten(1).float().mean(1)
    found = []
    for share in shares:
        count = 3 if share else 0
        scores = (torch.tensor([0.9, 0.6, 0.8]) * share)[:count]
        found.append({"boxes": BOXES[:count], "labels": torch.tensor([1, 2, 2])[:count], "scores": scores})
    return found


def test_a_box_is_the_best_product_of_score_and_overlap() -> None:
    """D-RISE's similarity of one class, by hand."""
    found = shapley(detector, Box((0, 0, 8, 8), 2))
    assert float(found.prediction) == pytest.approx(0.8)  # the first box is of another class
    torch.testing.assert_close(found.scores[0], torch.tensor([0.8, 0, 0, 0]).double())
    shifted = lm.FeatureAblation(detector).attribute(IMAGE, Box((0, 4, 8, 12), 2), PIXELS)
    by_hand = max(0.6 * (4 * 8) / (64 + 64 - 32), 0.8 * (8 * 4) / (64 + 64 - 32))
    assert float(shifted.prediction) == pytest.approx(by_hand)
    assert float(lm.FeatureAblation(detector).attribute(IMAGE, Box((0, 0, 8, 8), 7), PIXELS).prediction) == 0


def test_in_smaller_batches_detectors_answer_the_same() -> None:
    def hungry(images: Tensor, visible: Tensor) -> Any:
        if len(visible) > 3:
            raise RuntimeError("CUDA out of memory")
        return detector(images, visible)

    said: list[str] = []
    whole, parts = (shapley(each, Box((0, 0, 8, 8), 2)) for each in (detector, Halving(hungry, said.append)))
    assert whole.scores.equal(parts.scores) and said


class Detr(nn.Module):
    """Answers as the detectors of transformers: boxes are shares of the image."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra, self.config = extra, SimpleNamespace(id2label={0: "cat", 1: "dog"})
        self.logits = torch.randn(1, 3, 2 + extra, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Any:
        boxes = torch.tensor([[[0.25, 0.5, 0.5, 1], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1, 1]]])
        count = len(images)
        return SimpleNamespace(
            logits=self.logits.expand(count, -1, -1), pred_boxes=boxes.expand(count, -1, -1)
        )


@pytest.mark.parametrize("extra", [0, 1])
def test_detectors_of_transformers(extra: int) -> None:
    """With a class for no object it is softmax, without it sigmoid."""
    model = Detr(extra).eval()
    scores = model.logits[0].softmax(-1)[:, 1] if extra else model.logits[0].sigmoid()[:, 1]
    overlaps = torch.tensor([1 / 2, 1 / 4, 1])
    removal = lm.removal.MeanFill(model)
    target = Box((0, 0, 16, 16), "dog", size=(16, 16))
    found = lm.FeatureAblation(removal).attribute(IMAGE, target, PIXELS)
    assert float(found.prediction) == pytest.approx(float((scores * overlaps).max()), abs=1e-6)
    with pytest.raises(InputError, match=r"size: this model's boxes are shares of the image"):
        lm.FeatureAblation(removal).attribute(IMAGE, Box((0, 0, 16, 16), "dog"), PIXELS)
    model.config.id2label = {i: str(i) for i in range(9)}
    with pytest.raises(ModelError, match="it names 9 classes"):
        lm.FeatureAblation(removal).attribute(IMAGE, Box((0, 0, 16, 16), 1, size=(16, 16)), PIXELS)


@pytest.mark.parametrize("name", [None, "image_embeds", "pooler_output"])
def test_similarity_is_the_cosine(name: str | None) -> None:
    removal = lm.LayerMasking(NET)
    embedding = torch.randn(1, 5)
    wrapped = removal if name is None else lambda *given: SimpleNamespace(**{name: removal(*given)})
    found = lm.FeatureAblation(wrapped).attribute(IMAGE, Similarity(embedding), PIXELS)
    assert float(found.prediction) == pytest.approx(
        float(cosine_similarity(NET(IMAGE).detach(), embedding)), abs=1e-6
    )
    with pytest.raises(ModelError, match=r"the model answers \(1, 5\), expected features \(1, 6\)"):
        lm.FeatureAblation(wrapped).attribute(IMAGE, Similarity(torch.ones(6)), PIXELS)


@pytest.mark.parametrize("name", sorted(set(EXPLAINERS) - {"insertion", "deletion"}))
@pytest.mark.filterwarnings("ignore:.*too few to tell them apart")
def test_every_explainer_takes_every_target(name: str) -> None:
    """A class, as a number, as an object and as a function, has one explanation."""
    removal = lm.LayerMasking(NET)
    explainer = EXPLAINERS[name](removal, output="logit")
    given = {"n_samples": 30} if hasattr(explainer, "n_samples") else {}
    targets = [3, lambda answer: answer[:, 3], Similarity(torch.randn(5))]
    together = explainer.attribute(IMAGE, targets, PIXELS, **given)
    plain = explainer.attribute(IMAGE, 3, PIXELS, **given)
    assert together.targets == tuple(targets) and together.scores.shape == (3, 4)
    for row in (0, 1):
        torch.testing.assert_close(together.scores[row], plain.scores[0])
    assert not torch.allclose(together.scores[2], plain.scores[0])


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_a_region_that_keeps_the_prediction_is_of_classes(name: str) -> None:
    with pytest.raises(InputError, match="keeps the model's predicted class: targets are other than classes"):
        EXPLAINERS[name](lm.LayerMasking(NET)).attribute(IMAGE, lambda answer: answer[:, 0], PIXELS)


def test_each_picture_has_its_own_targets() -> None:
    explainer = lm.FeatureAblation(lm.LayerMasking(SEGMENTER), output="logit", perturbations_per_eval=3)
    one, other = Region(1, CORNER), Region(2, ~CORNER)
    both = explainer.attribute_batch(IMAGES, [one, [other, one]], [PIXELS, PIXELS])
    assert both[0].targets == (one,) and both[1].targets == (other, one)
    for image, targets, found in zip(IMAGES.split(1), ([one], [other, one]), both, strict=True):
        alone = explainer.attribute(image, targets, PIXELS)
        torch.testing.assert_close(alone.scores, found.scores)
    shared = explainer.attribute_batch(IMAGES, one, [PIXELS, PIXELS])
    torch.testing.assert_close(shared[0].scores, both[0].scores)
    with pytest.raises(InputError, match="targets: some are objects or functions, and some None"):
        explainer.attribute_batch(IMAGES, [one, None], [PIXELS, PIXELS])


def test_metrics_ask_for_what_was_explained() -> None:
    removal = lm.LayerMasking(SEGMENTER)
    target = Region(1, CORNER)
    found = lm.FeatureAblation(removal, output="logit").attribute(IMAGE, target, PIXELS)

    def by_hand(images: Tensor, visible: Tensor) -> Tensor:
        maps = removal(images, visible)[:, 1]
        return (maps * CORNER).flatten(1).sum(1, keepdim=True) / CORNER.sum()

    plain = lm.FeatureAblation(by_hand, output="logit").attribute(IMAGE, 0, PIXELS)
    torch.testing.assert_close(found.scores, plain.scores)
    for metric in (insertion, infidelity):
        ours, theirs = (
            metric(removal, IMAGE, [found], output="logit"),
            metric(by_hand, IMAGE, [plain], output="logit"),
        )
        torch.testing.assert_close(ours, theirs)
    assert lm.metrics.curve(removal, IMAGE, found, output="logit").targets == (target,)


NAMED = lm.zoo.Loaded(
    NET, lm.zoo.Preprocessing(), ("tench", "great white shark", "hen, chick", "a", "b"), "net"
)


def test_names_of_classes() -> None:
    explainer = lm.FeatureAblation(lm.LayerMasking(NAMED.model))
    assert explainer.attribute(IMAGE, "tench", PIXELS).targets == (0,)
    assert explainer.attribute(IMAGE, ["hen", 4, "shark"], PIXELS).targets == (2, 4, 1)
    assert [each.targets for each in explainer.attribute_batch(IMAGES, "hen", [PIXELS] * 2)] == [(2,), (2,)]
    with pytest.raises(InputError, match=r"target is 'tenhc': the model has no class 'tenhc'.*tench"):
        explainer.attribute(IMAGE, "tenhc", PIXELS)
    unnamed = lm.FeatureAblation(lm.LayerMasking(nn.Sequential(NET)))
    with pytest.raises(InputError, match="give the number of one"):
        lm.FeatureAblation(lambda images, visible: None).attribute(IMAGE, "tench", PIXELS)
    assert unnamed.attribute(IMAGE, "tench", PIXELS).targets == (0,)  # of a model within it


def test_functions_that_return_something_else_are_named() -> None:
    def flawed(answer: Tensor) -> Any:
        return answer.sum()

    with pytest.raises(ModelError, match=r"flawed.* returned \(\) for 1 masked pictures: .*\(1,\)"):
        lm.FeatureAblation(lm.LayerMasking(NET)).attribute(IMAGE, flawed, PIXELS)


def test_adapters_take_targets() -> None:
    removal, target = lm.LayerMasking(SEGMENTER), Region(1, CORNER)
    ours = lm.FeatureAblation(removal, output="logit").attribute(IMAGE, target, PIXELS)
    forward, arguments = lm.adapters.as_captum(removal, IMAGE, PIXELS, target=target)
    theirs = captum.attr.FeatureAblation(forward).attribute(**arguments, perturbations_per_eval=3)
    torch.testing.assert_close(theirs[0, 0], ours.heatmap().float(), rtol=1e-4, atol=1e-6)
    model, _ = lm.adapters.as_shap(removal, PIXELS, target=target)
    rows = ~torch.eye(4, dtype=torch.bool)
    found = model(rows.numpy(), IMAGE.expand(4, -1, -1, -1).numpy())
    np.testing.assert_allclose(float(ours.prediction) - found, ours.scores[0].numpy(), atol=1e-6)


class WithMore(nn.Module):
    """A model of an image, a row of numbers, a second image and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.row = NET, nn.Conv2d(1, 5, 3), nn.Linear(2, 5)

    def forward(self, x: Tensor, row: Tensor, second: Tensor, factor: float = 1.0) -> Tensor:
        assert len(x) == len(row) == len(second)
        return (self.one(x) + self.row(row) + self.other(second).mean((2, 3))) * factor


def _with_inputs(removal: Any, own: Any, images: Tensor, visible: Tensor) -> Tensor:
    """Answer with the inputs of one picture, expanded by hand."""
    row, second, factor = own
    return removal(images, visible, *(torch.cat([each] * len(visible)) for each in (row, second)), factor)


def test_other_inputs_go_with_the_masks() -> None:
    model = WithMore().eval()
    removal = lm.LayerMasking(model)
    rows, seconds = torch.randn(2, 2), torch.randn(2, 1, 9, 9)
    explainer = lm.FeatureAblation(removal, output="logit", perturbations_per_eval=3)
    more = (rows, seconds, 2.0)
    both = explainer.attribute_batch(IMAGES, [0, 1], [PIXELS] * 2, additional_forward_args=more)
    for i in range(2):
        own = (rows[i : i + 1], seconds[i : i + 1], 2.0)
        fixed = partial(_with_inputs, removal, own)
        plain = lm.FeatureAblation(fixed, output="logit").attribute(IMAGES[i : i + 1], i, PIXELS)
        alone = explainer.attribute(IMAGES[i : i + 1], i, PIXELS, additional_forward_args=own)
        for found in (both[i], alone):
            torch.testing.assert_close(found.scores, plain.scores, rtol=1e-4, atol=1e-6)
        curve = lm.metrics.curve(
            removal, IMAGES[i : i + 1], alone, additional_forward_args=own, output="logit"
        )
        torch.testing.assert_close(
            curve.values, lm.metrics.curve(fixed, IMAGES[i : i + 1], plain, output="logit").values
        )
    forward, arguments = lm.adapters.as_captum(removal, IMAGES, PIXELS, additional_forward_args=more)
    theirs = captum.attr.FeatureAblation(forward).attribute(
        **arguments, target=torch.tensor([0, 1]), perturbations_per_eval=3
    )
    for i in range(2):
        torch.testing.assert_close(theirs[i, 0], both[i].heatmap().float(), rtol=1e-4, atol=1e-6)


def test_other_inputs_that_do_not_fit() -> None:
    explainer = lm.FeatureAblation(lm.LayerMasking(WithMore().eval()))
    with pytest.raises(InputError, match="additional_forward_args holds a tensor of 3 rows for 2 images"):
        explainer.attribute_batch(
            IMAGES, 0, [PIXELS] * 2, additional_forward_args=(torch.zeros(3, 2), torch.zeros(2, 1, 9, 9))
        )
    with pytest.raises(InputError, match="additional_forward_args holds 1 inputs, and the model does not"):
        lm.FeatureAblation(lm.LayerMasking(NET)).attribute(IMAGE, 0, PIXELS, additional_forward_args=1)


def test_targets_on_pages_and_cards() -> None:
    removal = lm.LayerMasking(SEGMENTER)
    found = lm.FeatureAblation(removal).attribute(
        IMAGE, [Region(1, CORNER), Region.pixel(0, 3, 4, (16, 16))], PIXELS
    )
    card = found._repr_html_()
    assert "1 over 48 pixels" in card and "0 over 1 pixels" in card
    from layermask.render.explanation_page import report_page

    page = report_page(
        "t", np.zeros((16, 16, 3), "uint8"), [("a", 0.5)], {"layermask": found}, ["a", "b"], {}
    )
    assert "1 over 48 pixels" in page


def test_the_page_lists_every_output_and_target() -> None:
    page = Path(__file__).parents[1].joinpath("docs/explaining.md").read_text()
    assert set(re.findall(r"^\| `\"(\w+)\"`", page, re.MULTILINE)) == set(OUTPUTS)
    shown = {
        name: re.search(rf"^\| .*`lm.explain.{each.__name__}\(", page, re.MULTILINE)
        for name, each in TARGETS.items()
    }
    assert [name for name, found in shown.items() if not found] == ["class"]  # which is a number
