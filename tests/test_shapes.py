"""The shapes in annotations hold: jaxtyping and beartype watch while laws are judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fitting import made
from PIL import Image
from test_rules_by_hand import SAMPLES
from torch import Tensor, nn
from watching import held, jaxtyping, shaped
from watching import watched as watched

from layermask import LayerMasking, Masked, explain
from layermask.core.rule_table import RULES, name_of
from layermask.data import arrays, nodata, overlays
from layermask.data.images import load_labels
from layermask.explain.registry import EXPLAINERS
from layermask.io import demo, notebook, pixels
from layermask.metrics import localisation, operators, predictions, shape_bias
from layermask.metrics.flipping import curve
from layermask.padding import cpu, custom_op, hide, neighbor, reference, rings
from layermask.removal import gaps, targets
from layermask.removal.fills.constant import Constant
from layermask.removal.painting import PixelFill
from layermask.removal.reading import Reading
from layermask.removal.registry import REMOVALS
from layermask.rules import normalise
from layermask.segment import labels, presets
from layermask.testing import ExplainerLaws, FillLaws, RemovalLaws
from layermask.testing.explainers import smooth_game, stripes
from layermask.testing.rules import Arguments, Trial, random_masks
from layermask.zoo import loaded, outputs
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

MASK = torch.rand(2, 1, 12, 9, generator=torch.Generator().manual_seed(0)) < 0.4


def test_shapes_are_watched(watched: set[str]) -> None:
    assert watched >= {"Fill.__call__", "LayerMasking.forward", "Explainer.attribute", "Attribution.heatmap"}
    assert watched >= {"Attribution.__init__", "Curve.__init__", "Predictions.__init__", "ShapeBias.__init__"}
    assert watched >= {f"{kind}.paint" for kind in ("Blurred", "Noise", "PushPull")} | {"kendall", "top_k"}
    fill, images = Constant(), torch.zeros(2, 3, 4, 4)
    for visible in (torch.ones(2, 2, 4, 4).bool(), torch.ones(2, 1, 4, 5).bool(), torch.ones(2, 1, 4, 4)):
        with pytest.raises(jaxtyping.TypeCheckError):
            fill.paint(images, visible)
    fill.paint(images, torch.ones(1, 1, 4, 4, dtype=torch.bool))


def test_wrong_shapes_are_noticed_in_rules(watched: set[str]) -> None:
    assert watched >= {"Masked.__init__", "grow", "neighbor", "_max_pool.<locals>.max_pool", "batch_norm"}
    assert watched >= {"_cut_out.<locals>.rule", "relabel", "Slic.__call__", "Region.read", "valid_pixels"}
    x = Masked(torch.zeros(2, 3, 6, 5), MASK[:, :, :6, :5])
    wrong: list[Callable] = [
        lambda: Masked(x.value, MASK[:, :, :6, :4]),
        lambda: F.conv2d(x, torch.zeros(4, 3, 3, 3), torch.zeros(3)),
        lambda: F.group_norm(x, 1, torch.ones(2)),
        lambda: F.grid_sample(x, torch.zeros(3, 4, 4, 2)),
        lambda: rings.ring_map(x.visible, x.visible[:, :, :, :4], (1, 1)),
        lambda: labels.spread(torch.ones(2, 2), x.visible[0, 0].long(), 0),
    ]
    for call in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def operator(name: str, model: nn.Module) -> nn.Module:
    segments = torch.arange(96).view(12, 8) // 7
    return made(name, model, Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3), segments, (3, 12, 8))


@pytest.mark.parametrize(
    "law", [law for law in FillLaws.names() if "plain" in law or "stay" in law or "many" in law]
)
@pytest.mark.parametrize("name", [n for n, entry in REMOVALS.items() if not entry.transformers_only])
def test_removals_and_fills(name: str, law: str) -> None:
    if REMOVALS[name].extra:
        pytest.importorskip("cv2")
    if law in RemovalLaws.names():
        suite = RemovalLaws.of(lambda model: operator(name, model), reads_hidden=REMOVALS[name].reads_hidden)
        suite(law).debug()
    elif not REMOVALS[name].fitted and isinstance(found := operator(name, nn.Identity()), PixelFill):
        FillLaws.of(found.fill)(law).debug()


@pytest.mark.parametrize(
    "law", [law for law in ExplainerLaws.names() if "pictures" in law or "volumes" in law]
)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_and_attributions(name: str, law: str) -> None:
    settings = {"n_samples": 30} if hasattr(EXPLAINERS[name], "n_samples") else {}
    ExplainerLaws.of(EXPLAINERS[name], settings=settings)(law).debug()


@pytest.mark.filterwarnings("ignore:.*too few")
@pytest.mark.parametrize("shape", [(12,), (12, 12), (12, 12, 12)], ids=len)
def test_attributions_and_curves(shape: tuple[int, ...]) -> None:
    game, segments = smooth_game(6), stripes(6, len(shape))
    game.segments = segments.flatten()
    game.sizes = game.segments.bincount()
    found = EXPLAINERS["shapley"](game, n_samples=30).attribute(torch.ones(1, 2, *shape), [0, 2], segments)
    assert found.heatmap(1).shape == shape and found.visible(2).shape == (1, 1, *shape)
    assert found.interval()[0].shape == (2, 6)
    assert curve(game, torch.ones(1, 2, *shape), found).area().shape == (2,)


def test_metrics() -> None:
    predicted, labels = torch.randint(0, 9, (5, 4)), torch.randint(0, 9, (5,))
    fractions, weights = torch.linspace(0, 1, 4), torch.ones(3, 5, dtype=torch.float64)
    answers = predictions.Predictions(predicted, fractions, labels)
    for name in ("accuracy", "unchanged", "class-entropy", "wordnet-similarity"):
        assert answers.curve(name).shape == (4,) and answers.curve(name, weights=weights).shape == (3, 4)
        assert answers.area(name, weights=weights).shape == (3,)
    scores, segments = torch.rand(6, dtype=torch.float64), stripes(6)
    assert localisation.top_k_jaccard(scores, segments, torch.ones(12, 12), 2) > 0
    assert -1 <= localisation.alignment(scores, segments, torch.rand(12, 12)) <= 1
    assert operators.kendall(torch.rand(2, 7), torch.rand(1, 7)).shape == (2,)
    assert -1 <= operators.rank_stability(torch.rand(3, 8)) <= 1
    assert shape_bias.broken_mask(torch.ones(2, 1, 5, 6, dtype=torch.bool)).shape == (2, 1, 5, 6)
    right = torch.rand(2, 5) < 0.5
    right[:, 0] = True  # of none, there is no bias
    whole = labels.where(right[0], labels + 1)
    assert shape_bias.shape_bias(labels, whole, labels, labels).difference.shape == (int(right[0].sum()),)


def with_shapes() -> list[list[Callable]]:
    """The torch functions of each rule that names shapes."""
    of_rule: dict[Callable, list[Callable]] = {}
    for function, body in RULES.items():
        if any(map(shaped, (body, *(inner for *_, inner in held([body]))))):
            of_rule.setdefault(body, []).append(function)
    return list(of_rule.values())


def calls(function: Callable) -> list[Arguments]:
    """What to call a torch function with: samples written by hand, or PyTorch's own."""
    if function in SAMPLES:
        return [each if isinstance(each, Arguments) else Arguments(*each) for each in SAMPLES[function]]
    if function is F.embedding:
        return [Arguments(torch.arange(6).view(2, 3), torch.randn(6, 4))]
    opinfo = pytest.importorskip("test_rules_opinfo")
    names = opinfo.stems(function)
    ops = [op for op in opinfo.RULED if op.name.split(".")[-1] in names and function in opinfo.spellings(op)]
    return [each for op in ops for each in opinfo.samples(op, opinfo.dtypes(op)[0], 12)]


def answers(function: Callable, number: int, arguments: Arguments) -> bool:
    """Whether torch takes these arguments and the rule does; what it refuses is judged elsewhere."""
    masks = random_masks(arguments, arguments.places[:1], number, narrow=bool(number % 2))
    try:
        arguments.call(function, {})
        return bool(Trial(function, arguments, masks).answer)
    except jaxtyping.TypeCheckError:
        raise
    except Exception:
        return False


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's, of its own samples
@pytest.mark.parametrize("functions", with_shapes(), ids=lambda functions: name_of(functions[0]))
def test_rules(functions: list[Callable]) -> None:
    found = [answers(f, number, each) for f in functions for number, each in enumerate(calls(f))]
    assert any(found), "no sample has an answer"


@pytest.mark.parametrize(
    "is_padding", [None, torch.arange(9).expand(1, 1, 12, 9) > 6], ids=["whole", "padded"]
)
def test_every_way_to_fill_names_the_same_shapes(is_padding: Tensor | None) -> None:
    value, reach = torch.randn(2, 9, 12, 9), (2, 1)
    visible = MASK if is_padding is None else MASK | is_padding
    x, ring = Masked(value, visible, is_padding=is_padding), rings.ring_map(visible, is_padding, reach)
    near, wanted = ring != rings.NEVER, neighbor.neighbor(x, reach)
    for fill in (reference.fill_dense, reference.fill_edges):
        torch.testing.assert_close(fill(x, reach) * near, wanted * near)
    for way in (custom_op, cpu) if cpu.available() else (custom_op,):
        assert way.rings(visible, is_padding, reach).equal(ring)
        way.fill_(filled := value.clone(), ring, reach, 0.0)
        assert filled.shape == value.shape
    assert hide.hide_(value, MASK, 0.0).shape == hide.hide_(value.double(), MASK, 0.0).shape


def test_layers_of_torchvision_and_folded_norms() -> None:
    ops = pytest.importorskip("torchvision.ops")
    x, boxes = Masked(torch.randn(2, 8, 12, 9), MASK), torch.tensor([[0.0, 1, 1, 7, 8], [1, 0, 0, 5, 5]])
    assert ops.roi_align(x, boxes, 2).shape == ops.roi_pool(x, boxes, 2).shape == (2, 8, 2, 2)
    assert ops.ps_roi_align(x, boxes, 2).shape == (2, 2, 2, 2)
    offset, weight = torch.randn(2, 18, 12, 9), torch.randn(4, 8, 3, 3)
    assert ops.deform_conv2d(x, offset, weight, padding=1).shape == (2, 4, 12, 9)
    shown = Masked(boxes[:, 1:], torch.tensor([[True], [False]]))
    norm = normalise.scale_and_shift(torch.zeros(4), torch.ones(4), None, None, 0.0)
    assert [each.shape for each in normalise.fold_batch_norms(weight, None, [norm])] == [weight.shape, (4,)]
    assert ops.nms(shown, torch.tensor([0.5, 0.9]), 0.5).tolist() == [0]


def test_segmenters_and_label_maps(tmp_path: Path) -> None:
    picture = torch.rand(3, 24, 30).movedim(0, -1).numpy()
    for name in (*presets.SEGMENTERS, "boxes:0,0,9,9;5,5,20,20"):
        found = presets.segmented(name, picture, torch.arange(30).expand(24, 30) > 3)
        assert found.shape == (24, 30)
        count = int(found.max()) + 1
        shares = labels.sizes_of(found, count) / found.numel()
        assert labels.spread(shares, found, 0.0).shape == (24, 30)
        assert labels.restore_segments(labels.of_segments(found)).equal(found)
        assert labels.sum_over(found, torch.ones(2, 24, 30)).shape == (2, count)
    np.save(tmp_path / "labels.npy", found.numpy().clip(0))
    assert load_labels(tmp_path / "labels.npy").shape == (24, 30)
    png = pixels.png(pixels.bordered(demo.pixels(demo.photograph()), demo.holes()[0, 0].long()))
    shown = notebook.masked_map(torch.rand(3, 24, 30), found[None] > 1)
    assert png.startswith(b"\x89PNG") and shown.shape == (24, 30, 3)


def test_models_and_preprocessing(builtin: Loaded, picture: Image.Image) -> None:
    images, mask = builtin.preprocessing(picture), builtin.preprocessing.mask(picture.convert("L"))
    assert builtin.preprocessing.valid(picture.convert("L")).shape == mask.shape == (1, 1, 224, 224)
    assert builtin.preprocessing.labels(np.zeros((30, 20), int)).shape == (224, 224)
    assert builtin.preprocessing.picture(images).shape == (224, 224, 3)
    assert loaded.tried(builtin).labels == builtin.labels
    assert loaded.count_classes(builtin.model, builtin.preprocessing, "it") == len(builtin.labels)
    assert outputs.dense_scores({"out": images}, 1).shape == images.shape
    assert outputs.flat_scores(images, 1).shape == (1, 3 * 224 * 224)


def test_targets_and_gaps() -> None:
    answer, boxes = torch.randn(2, 5, 6, 4), torch.tensor([[0.0, 0, 9, 9], [3, 3, 9, 9]])
    found = [{"boxes": boxes, "scores": torch.rand(2), "labels": torch.tensor([1, 2])}] * 2
    queries = SimpleNamespace(logits=torch.randn(2, 7, 3), pred_boxes=torch.rand(2, 7, 4))
    for target, given in (
        (targets.Region.polygon(3, [0, 0, 9, 0, 9, 9], (12, 8)), answer),
        (targets.Box([0, 0, 8, 8], 1), found),
        (targets.Box([0, 0, 8, 8], 1, (12, 8)), queries),
        (targets.Similarity(torch.ones(5)), answer[:, :, 0, 0]),
        (4, answer[:, :, 0, 0]),
    ):
        columns = targets.Columns.of_all([target] * 3)
        assert targets.values(columns, given, 2, Reading(None, "sigmoid")).shape == (2, 3)
    attribution = explain.FeatureAblation(LayerMasking(nn.Flatten())).attribute(
        answer[:1].where(MASK[:1, :, :6, :4], torch.nan), 0, torch.arange(24).view(6, 4) // 6, valid="nan"
    )
    assert attribution.heatmap().shape == (6, 4) and "target 0" in attribution._repr_html_()
    images = answer.where(MASK[:1, :, :6, :4], torch.nan)
    assert gaps.valid_pixels(images, "nan").shape == (2, 1, 6, 4)
    marked = gaps.mark_hidden(images, MASK[:, :, :6, :4])
    assert gaps.NaNHidden(LayerMasking(nn.Flatten()))(marked).shape == (2, 120)


def test_pictures_from_files(tmp_path: Path, photograph: Path, picture: Image.Image) -> None:
    assert arrays.load_pixels(photograph).shape == (1, 3, picture.height, picture.width)
    opaque = Image.fromarray(np.tri(30, 20, dtype=np.uint8) * 255)
    Image.merge("RGBA", [opaque] * 4).save(tmp_path / "a.png")
    assert arrays.load_pixels(tmp_path / "a.png").isnan().sum() == 3 * 190  # above the diagonal
    assert np.array_equal(nodata.load_valid(tmp_path / "a.png", "alpha"), opaque)
    polygon = overlays.Shape([[0, 0, 5, 0, 5, 5]], "a line")
    runs = overlays.Shape({"counts": [100, 20, 480], "size": [30, 20]}, "another")
    assert overlays.Shapes((polygon, runs), (20, 30), "a.png", "its entry")((20, 30)).size == (20, 30)
