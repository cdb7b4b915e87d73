"""Pixels that are never visible: what they hold reaches no answer, and they are in no segment."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layermask as lm
from layermask.errors import InputError, ModelError
from layermask.explain.registry import EXPLAINERS
from layermask.metrics.registry import METRICS
from layermask.removal.gaps import never_visible, valid_pixels
from layermask.segment.labels import NOWHERE, of_segments, relabel, restore_segments, spread, sum_over
from layermask.segment.presets import SEGMENTERS

SIDE = 12
torch.manual_seed(0)
NET = nn.Sequential(
    *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
).eval()
IMAGES = torch.randn(2, 3, SIDE, SIDE)
VALID = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
VALID[0, :, :5, :7] = False
VALID[1, :, 3:, 10:] = False
CELLS = lm.Grid(3).labels((SIDE, SIDE))
QUIET = pytest.mark.filterwarnings("ignore:.*too few to tell them apart", "ignore:.*drawn")
REMOVALS: dict[str, Callable[..., Tensor]] = {
    "layers": lm.LayerMasking(NET),
    "grey": lm.removal.Greyout(NET),
    "push-pull": lm.removal.PushPullFill(NET),
    "own": lambda images, visible: NET(images * visible),  # NaN times 0 is NaN
}


def holding(value: float) -> Tensor:
    """The images with `value` in one channel, or NaN in one, where they hold no data."""
    gap = IMAGES.clone()
    gap[:, 1] = torch.where(VALID[:, 0], gap[:, 1], value)
    return gap


def settings_of(name: str) -> dict[str, int]:
    known = EXPLAINERS[name].__dataclass_fields__
    return {"n_samples": 40} if "n_samples" in known else {}


@QUIET
@pytest.mark.parametrize(
    ("name", "removal"), [*((name, "layers") for name in EXPLAINERS), *(("lime", each) for each in REMOVALS)]
)
def test_what_is_not_valid_changes_no_explanation(name: str, removal: str) -> None:
    """NaN, infinity, a number that stands for no data: the scores are the same, bit for bit."""
    made = EXPLAINERS[name](REMOVALS[removal], output="logit", **settings_of(name))
    maps = [CELLS, CELLS]
    found = made.attribute_batch(holding(math.nan), None, maps, valid="nan")
    for value in (0.0, -9999.0, math.inf):
        again = made.attribute_batch(holding(value), None, maps, valid=VALID)
        for one, other in zip(found, again, strict=True):
            assert torch.equal(one.scores, other.scores) and one.targets == other.targets
            assert torch.equal(one.segments, other.segments)
    for image, each in enumerate(found):
        assert torch.equal(each.segments == NOWHERE, ~VALID[image, 0])
        assert torch.equal(each.heatmap().isnan(), ~VALID[image, 0])
        assert not bool(each.visible(each.scores.shape[1])[~VALID[image : image + 1]].any())


@QUIET
@pytest.mark.parametrize(
    "name", ["kernel-shap", "shapley", "banzhaf", "leave-one-out", "keep-one", "occlusion"]
)
def test_it_is_the_explanation_by_a_wrapper_of_ones_own(name: str) -> None:
    """Segments that hold data get what they get from a removal that hides the rest by itself."""
    whole = torch.where(VALID, IMAGES, 0.0)[:1]
    layers = lm.LayerMasking(NET, engine="dense")
    own = lambda images, visible: layers(images, visible & VALID[:1])  # noqa: E731
    # the gap as a segment of its own, which changes nothing
    cells = relabel(torch.where(VALID[0, 0], CELLS + 1, 0))
    exact = {"n_samples": 200} if settings_of(name) else {}
    two = torch.where(CELLS % 4 < 2, 1, 2).where(VALID[0, 0], torch.tensor(0)) if exact else cells
    made = EXPLAINERS[name](layers, output="logit", **exact)
    found = made.attribute(whole, 0, two, valid=VALID[:1])
    wanted = EXPLAINERS[name](own, output="logit", **exact).attribute(whole, list(found.targets), two)
    assert torch.allclose(found.scores, wanted.scores[:, 1:], atol=1e-5)
    assert torch.allclose(found.prediction, wanted.prediction, atol=1e-6)


def test_nan_is_refused_unless_something_says_that_it_is_hidden() -> None:
    gap = holding(math.nan)[:1]
    with pytest.raises(ValueError, match='valid="nan"'):
        lm.FeatureAblation(REMOVALS["layers"]).attribute(gap, 0, CELLS)
    with pytest.raises(ValueError, match='valid="nan"'):
        lm.Slic(5)(gap)
    hidden = lm.adapters.NaNHidden(REMOVALS["layers"])
    found = lm.FeatureAblation(hidden, output="logit").attribute(gap, 0, CELLS)
    wanted = lm.FeatureAblation(REMOVALS["layers"], output="logit").attribute(gap, 0, CELLS, valid="nan")
    assert found.scores.shape == (1, 16) and torch.equal(found.prediction, wanted.prediction)


def test_masks_of_all_shapes_say_the_same() -> None:
    made = lm.FeatureAblation(REMOVALS["layers"], output="logit")
    one = VALID[0, 0]
    wanted = made.attribute(IMAGES[:1], 0, CELLS, valid=one).scores
    for same in (VALID[:1], one.float(), one.byte()[None, None]):
        assert torch.equal(made.attribute(IMAGES[:1], 0, CELLS, valid=same).scores, wanted)
    everywhere = torch.ones_like(one)
    assert torch.equal(
        made.attribute(IMAGES[:1], 0, CELLS, valid=everywhere).scores,
        made.attribute(IMAGES[:1], 0, CELLS).scores,
    )


WRONG = {
    "valid is True or False of shape": lambda: valid_pixels(IMAGES, VALID[..., 1:]),
    "leaves nothing of an image": lambda: valid_pixels(IMAGES, torch.zeros(2, 1, SIDE, SIDE) > 0),
    'at 35 pixels that hold NaN: give valid="nan"': lambda: valid_pixels(
        holding(math.nan)[:1], torch.ones(SIDE, SIDE) > 0
    ),
    "BlurFill paints from what hidden pixels held": lambda: lm.FeatureAblation(
        lm.removal.BlurFill(NET)
    ).attribute(IMAGES[:1], 0, CELLS, valid=VALID[:1]),
    "one segment for the whole image": lambda: lm.FeatureAblation(REMOVALS["layers"]).attribute(
        IMAGES[:1], 0, CELLS, valid=CELLS == 3
    ),
    "False everywhere: nothing is left": lambda: lm.Grid(4)(IMAGES, torch.zeros(SIDE, SIDE) > 0),
    r"valid is of shape \(3, 3\)": lambda: lm.Grid(4)(IMAGES, torch.ones(3, 3) > 0),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_used_is_named(message: str) -> None:
    with pytest.raises(InputError, match=message):
        WRONG[message]()


def test_a_wrapper_that_is_no_module_hides_no_fill_that_reads_hidden_pixels() -> None:
    from layermask.removal.query import Halving

    with pytest.raises(InputError, match="BlurFill paints"):
        never_visible(Halving(lm.removal.BlurFill(NET)), IMAGES, VALID)


def asked(images: Tensor, found: list[lm.Attribution], name: str, **settings: object) -> Tensor | float:
    function: Callable = getattr(METRICS[name].function, "func", METRICS[name].function)
    return function(REMOVALS["own"], images, found, **settings)


@pytest.mark.parametrize("name", ["insertion", "deletion", "lerf", "srg", "infidelity", "sensitivity-n"])
def test_metrics_never_show_what_an_attribution_has_in_no_segment(name: str) -> None:
    if name not in METRICS:
        name = next(each for each in METRICS if each.replace("_", "-").startswith(name[:4]))
    made = lm.FeatureAblation(REMOVALS["grey"], output="logit")
    found = made.attribute_batch(IMAGES, 0, [CELLS, CELLS], valid=VALID)
    results = [asked(holding(value), found, name) for value in (0.0, -9999.0, math.nan)]
    results.append(asked(holding(5.0), found, name, valid=VALID))
    assert all(torch.equal(results[0], each) for each in results)


def test_removing_segments_and_random_orders_leave_the_gap_hidden() -> None:
    from layermask.metrics.operators import r_oms

    maps = [CELLS, CELLS]
    found = []
    for value, valid in ((-9999.0, VALID), (math.nan, "nan")):
        whole = lm.metrics.remove_segments(REMOVALS["layers"], holding(value), maps, valid=valid)
        found.append((whole.predicted, r_oms(REMOVALS["layers"], holding(value), maps, valid=valid)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_scores_of_a_gap_count_nowhere() -> None:
    labels, mask = torch.tensor([[0, 1], [NOWHERE, 1]]), torch.tensor([[1.0, 0], [1, 0]])
    scores = torch.tensor([3.0, 1.0])
    narrow = torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 0, 0]])
    for metric in (lm.metrics.alignment, lm.metrics.top_k_jaccard):
        assert metric(scores, labels, mask) == pytest.approx(metric(scores, *narrow))
    assert sum_over(labels, mask).tolist() == [1, 0]
    assert spread(scores, labels, -5.0).tolist() == [[3, 1], [-5, 1]]
    assert torch.equal(restore_segments(of_segments(labels)), labels)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segments_lie_on_valid_pixels_alone(name: str) -> None:
    """And what the others hold changes none of them."""
    pytest.importorskip("skimage")
    make, one = SEGMENTERS[name](), VALID[0, 0]
    first = make(holding(math.nan)[0], "nan")
    assert torch.equal(first == NOWHERE, ~one)
    assert first.unique().tolist() == [*range(NOWHERE, int(first.max()) + 1)]
    for value in (0.0, 100.0, math.inf):
        assert torch.equal(make(holding(value)[0], one), first)
    assert torch.equal(make(holding(math.nan)[0].permute(1, 2, 0).numpy(), "nan"), first)
    if name != "grid":
        assert torch.equal(make(IMAGES[0], torch.ones_like(one)) >= 0, torch.ones_like(one))
    else:
        assert torch.equal(make(IMAGES[0], torch.ones_like(one)), make(IMAGES[0]))


def test_relabel_numbers_what_is_left() -> None:
    valid = torch.tensor([[True, False, True]])
    assert relabel(np.array([[7, 9, 3]]), valid).tolist() == [[1, NOWHERE, 0]]


@pytest.mark.filterwarnings("ignore")
def test_adapters_hide_the_gap() -> None:
    forward, arguments = lm.adapters.as_captum(REMOVALS["layers"], holding(math.nan)[:1], CELLS, valid="nan")
    wanted = REMOVALS["layers"](IMAGES[:1], VALID[:1])
    assert torch.equal(forward(arguments["inputs"]), wanted)
    model, _ = lm.adapters.as_shap(REMOVALS["layers"], CELLS, valid=VALID[0, 0])
    rows = np.ones((1, 16), dtype=bool)
    np.testing.assert_allclose(model(rows, holding(-9999.0)[:1].numpy()), wanted.detach(), rtol=1e-6)


def test_scores_that_are_not_finite_are_told_from_images_that_are_not() -> None:
    image = IMAGES[:1].clone()
    image[..., :2, :2] = math.inf
    with pytest.raises(ModelError, match="not finite for 1 of 1 masks: the images hold infinity 12 times"):
        lm.FeatureAblation(REMOVALS["layers"]).attribute(image, 0, CELLS)
