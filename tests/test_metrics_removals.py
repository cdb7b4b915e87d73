"""Metrics of removal operators: segment removal, shape bias, linearity, R-OMS, random bias, rankings."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import layermask as lm
from layermask.errors import InputError
from layermask.metrics.linearity import headless, linearity, measure_linearity
from layermask.metrics.operators import (
    kendall,
    r_oms,
    random_attribution_bias,
    random_attributions,
    rank_stability,
)
from layermask.metrics.segment_removal import remove_segments
from layermask.metrics.shape_bias import broken_mask, measure_shape_bias, shape_bias

SIDE = 8
CELLS = lm.Grid(2).labels((SIDE, SIDE))  # 16 segments
IMAGES = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """Small, not linear, with a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(8, 6))
        head, features = self.classifier[1], self.body(IMAGES)
        head.weight.data *= 100  # so that classes change with the pixels
        head.bias.data = -(head.weight @ features.mean(0)).detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))


MODEL = Model().eval()
REMOVALS = [lm.LayerMasking(MODEL), lm.removal.ConstantFill(MODEL, 0.3)]


def by_segment(value):
    """A removal that answers value(shares of segments shown (n, 16)) -> (n, classes)."""

    def removal(images: Tensor, visible: Tensor) -> Tensor:
        sums = torch.zeros(len(visible), 16).index_add_(1, CELLS.flatten(), visible.flatten(1).float())
        return value(sums / 4)

    return removal


# --- segment removal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_removing_segments_is_its_slow_twin(removal: nn.Module, batch: int) -> None:
    order = [torch.rand(16, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    done: list[int] = []
    found = remove_segments(
        removal,
        IMAGES,
        [CELLS] * 5,
        torch.zeros(5, dtype=torch.int64),
        order=order,
        perturbations_per_eval=batch,
        show_progress=done.append,
    )
    assert found.fractions.tolist() == pytest.approx([i / 10 for i in range(11)]) and sum(done) == 55
    assert len(found.predicted.unique()) > 2
    for image, scores, row in zip(IMAGES, order, found.predicted, strict=True):
        best = scores.argsort(descending=True).tolist()
        for tenths in range(11):
            gone = best[: tenths * 16 // 10]
            visible = torch.tensor([[int(s) not in gone for s in line] for line in CELLS])
            with torch.no_grad():
                assert int(row[tenths]) == int(removal(image[None], visible[None, None]).argmax())


def test_as_many_segments_are_removed_as_the_released_code_removes() -> None:
    shown = by_segment(
        lambda rows: nn.functional.one_hot(rows.sum(1).long(), 17).float()
    )  # class = number shown
    found = remove_segments(shown, IMAGES[:1], [CELLS])
    assert found.predicted[0].tolist() == [16 - int(number / 10 * 16 + 1e-9) for number in range(11)]


def test_random_orders_depend_on_the_seed_and_the_image_alone() -> None:
    weights = torch.rand(16, 60, generator=torch.Generator().manual_seed(1))
    removal = by_segment(lambda rows: rows @ weights)
    whole = remove_segments(removal, IMAGES, [CELLS] * 5, seed=3).predicted
    parts = [
        remove_segments(
            removal, IMAGES[i : i + 2], [CELLS] * len(IMAGES[i : i + 2]), seed=3, first=i
        ).predicted
        for i in (0, 2, 4)
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, remove_segments(removal, IMAGES, [CELLS] * 5, seed=4).predicted)
    assert not torch.equal(whole[0], whole[1])  # another image, another order


# --- shape bias --------------------------------------------------------------------------------------------


def test_the_broken_mask_swaps_quadrants() -> None:
    quadrants = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    swapped = torch.tensor([[3, 2], [1, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    for number in range(4):
        assert torch.equal(broken_mask(quadrants[None, None] == number), swapped[None, None] == number)
    mask = torch.rand(2, 1, 224, 224) < 0.3
    moved = broken_mask(mask)
    assert torch.equal(broken_mask(moved), mask) and torch.equal(moved[0, 0, 5, 200], mask[0, 0, 117, 88])


def test_shape_bias_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    whole = torch.tensor([0, 0, 5, 1, 1, 0])  # the third and the last are wrong from the start
    hidden = torch.tensor([0, 1, 0, 1, 3, 2])
    broken = torch.tensor([0, 0, 0, 1, 1, 2])
    found = shape_bias(labels, whole, hidden, broken)
    assert found.total == 6 and found.labels.tolist() == [0, 0, 1, 1]
    assert found.accuracy() == (0.5, 1.0, 0.5)
    table, counts = found.by_class(4)
    assert counts.tolist() == [2, 2, 0, 0] and table[:2].tolist() == [[0.5, 1, 0.5], [0.5, 1, 0.5]]
    assert bool(table[2:].isnan().all())
    _, low, high = found.interval()
    assert low[1] == high[1] == 1 and float(low[0]) < 0.5 < float(high[0])
    assert float(low[2]) == pytest.approx(1 - float(high[0]))


@pytest.mark.parametrize("removal", REMOVALS)
def test_measured_shape_bias_is_its_slow_twin(removal: nn.Module) -> None:
    objects = torch.zeros(5, 1, SIDE, SIDE, dtype=torch.bool)
    for i in range(5):
        objects[i, 0, 1 : 3 + i, 2:5] = True
    found = measure_shape_bias(removal, IMAGES, objects, batch_size=2)
    for i in range(5):
        with torch.no_grad():
            label = MODEL(IMAGES[i : i + 1]).argmax()
            for mask, right in (
                (objects[i : i + 1], found.hidden),
                (broken_mask(objects[i : i + 1]), found.broken),
            ):
                assert bool(right[i]) == bool(removal(IMAGES[i : i + 1], ~mask).argmax() == label)
    assert found.total == 5 == len(found.labels) and found.hidden.any() and not found.hidden.all()


def test_a_model_that_reads_the_hole_is_caught() -> None:
    def removal(
        images: Tensor, visible: Tensor
    ) -> Tensor:  # class 1 by the top left corner, seen or as a hole
        corner = visible[:, 0, 0, 0].float()
        return torch.stack([torch.full_like(corner, 0.5), torch.ones_like(corner)], 1)

    def honest(images: Tensor, visible: Tensor) -> Tensor:
        corner = visible[:, 0, 0, 0].float()
        return torch.stack([torch.full_like(corner, 0.5), corner], 1)

    objects = torch.zeros(5, 1, SIDE, SIDE, dtype=torch.bool)
    objects[..., :4, :4] = True
    labels = torch.ones(5, dtype=torch.int64)
    assert measure_shape_bias(removal, IMAGES, objects, labels).accuracy() == (1, 1, 0)
    assert measure_shape_bias(honest, IMAGES, objects, labels).accuracy() == (0, 1, 1)


# --- linearity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", REMOVALS)
def test_linearity_is_its_slow_twin(removal: nn.Module) -> None:
    found = measure_linearity(removal, IMAGES, 4, perturbations_per_eval=3)
    for i, image in enumerate(IMAGES):
        total = torch.zeros(6, dtype=torch.double)
        for top, left in itertools.product((0, 4), (0, 4)):
            visible = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
            visible[..., top : top + 4, left : left + 4] = True
            total += removal(image[None], visible)[0].detach().double()
        whole = MODEL(image[None])[0].detach().double()
        assert float(found.l2[i]) == pytest.approx(float((total - whole).norm() / whole.norm()), rel=1e-4)
        cosine = float(total @ whole / total.norm() / whole.norm())
        assert float(found.cosine[i]) == pytest.approx(cosine, abs=1e-5)
        assert float(found.norm[i]) == pytest.approx(float(total.norm()), rel=1e-5)
        assert float(found.whole_norm[i]) == pytest.approx(float(whole.norm()), rel=1e-4)


def test_a_linear_model_of_black_images_is_linear() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 6, bias=False))
    found = measure_linearity(lm.removal.ConstantFill(linear, 0.0), IMAGES, 2)
    assert float(found.l2.max()) < 1e-5 and float(found.cosine.min()) > 1 - 1e-6
    assert linearity(torch.zeros(2, 3), torch.zeros(2, 3)).l2.tolist() == [0, 0]


def test_headless_answers_with_features_and_leaves_the_model() -> None:
    before = MODEL(IMAGES)
    features = headless(MODEL)
    torch.testing.assert_close(features(IMAGES), MODEL.body(IMAGES))
    torch.testing.assert_close(MODEL(IMAGES), before)
    assert next(features.parameters()) is next(MODEL.parameters())
    torch.testing.assert_close(headless(MODEL, "classifier")(IMAGES), MODEL.body(IMAGES))
    found = measure_linearity(lm.LayerMasking(features), IMAGES, 4)
    assert found.l2.shape == (5,) and bool(found.l2.isfinite().all())
    with pytest.raises(InputError, match="no head 'fc'"):
        headless(MODEL, "fc")
    with pytest.raises(InputError, match=r"no nn.Linear: give head"):
        headless(nn.ReLU())


# --- R-OMS, random bias ------------------------------------------------------------------------------------


def share_game(power: float):
    """The probability of class 1 is 0.1 + 0.8 · (share of segments shown) ** power."""

    def value(rows: Tensor) -> Tensor:
        p = 0.1 + 0.8 * rows.mean(1) ** power
        return torch.stack([1 - p, p], 1).log()

    return by_segment(value)


def test_r_oms_by_hand() -> None:
    found = r_oms(share_game(1), IMAGES, [CELLS] * 5, steps=16, n_orders=2)
    assert found.tolist() == pytest.approx([0.5] * 5, abs=1e-6)  # a line from 0.9 to 0.1
    robust = r_oms(share_game(0.2), IMAGES, [CELLS] * 5)
    assert bool((robust > found).all())


def test_r_oms_is_its_slow_twin() -> None:
    removal = lm.LayerMasking(MODEL)
    found = r_oms(removal, IMAGES, [CELLS] * 5, steps=4, seed=2, perturbations_per_eval=3)
    for image, drawn, score in zip(
        IMAGES, random_attributions(removal, IMAGES, [CELLS] * 5, 1, seed=2), found, strict=True
    ):
        order, values = drawn.scores[0].argsort(descending=True).tolist(), []
        target = int(MODEL(image[None]).argmax())
        for gone in (0, 4, 8, 12, 16):
            visible = torch.tensor([[int(s) not in order[:gone] for s in line] for line in CELLS])
            values.append(float(removal(image[None], visible[None, None]).detach().softmax(1)[0, target]))
        want = sum((a + b) / 2 / 4 for a, b in itertools.pairwise(values))
        assert float(score) == pytest.approx(want, abs=1e-6)


def test_random_bias_by_hand() -> None:
    found = random_attribution_bias(share_game(1), IMAGES, [CELLS] * 5, steps=16, n_orders=3)
    assert found.bias() == pytest.approx(1 - 0.5 / 0.9, abs=1e-6)
    assert found.noise() == pytest.approx(0, abs=1e-6)  # every order loses the same
    assert found.drop.shape == found.gain.shape == (5, 3)


def test_the_noise_of_random_attributions_is_seen_and_averages_to_nothing() -> None:
    def value(rows: Tensor) -> Tensor:  # all that matters is segment 5
        return torch.stack([1 - 0.9 * rows[:, 5], 0.001 + 0.9 * rows[:, 5]], 1).clamp_min(1e-9).log()

    found = random_attribution_bias(by_segment(value), IMAGES, [CELLS] * 5, steps=16, n_orders=200)
    assert 0.4 < found.noise() < 0.7  # the place of one segment is uniform: sd of 2u − 1 is 0.58
    error = float(found.gain.std() / found.gain.numel() ** 0.5)
    assert abs(float(found.gain.mean())) < 4 * error
    assert found.bias() == pytest.approx(0.5, abs=0.05)


def test_operators_and_seeds_are_asked_the_same_orders() -> None:
    settings = {"steps": 4, "n_orders": 3}
    runs = [
        random_attribution_bias(lm.LayerMasking(MODEL), IMAGES, [CELLS] * 5, seed=seed, **settings).drop
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    a, b = (random_attributions(removal, IMAGES, [CELLS] * 5) for removal in REMOVALS)
    assert all(torch.equal(x.scores, y.scores) for x, y in zip(a, b, strict=True))


# --- rankings ----------------------------------------------------------------------------------------------


def test_kendall_is_its_slow_twin() -> None:
    draw = torch.Generator().manual_seed(5)
    a, b = torch.randint(4, (2, 6, 7), generator=draw).double()
    for row, other, tau in zip(a, b, kendall(a, b), strict=True):
        agree = tied_a = tied_b = 0
        pairs = list(itertools.combinations(range(7), 2))
        for i, j in pairs:
            x, y = float(row[i] - row[j]), float(other[i] - other[j])
            agree += (x * y > 0) - (x * y < 0)
            tied_a, tied_b = tied_a + (x == 0), tied_b + (y == 0)
        want = agree / ((len(pairs) - tied_a) * (len(pairs) - tied_b)) ** 0.5
        assert float(tau) == pytest.approx(want)
    assert float(kendall(a[0], a[0])) == pytest.approx(1) and float(kendall(a[0], -a[0])) == pytest.approx(-1)
    assert float(kendall(torch.ones(4), torch.arange(4))) == 0


def test_rank_stability_tells_signal_from_noise() -> None:
    draw = torch.Generator().manual_seed(6)
    noise, merit = torch.randn(5, 200, generator=draw), torch.arange(5.0)[:, None]
    assert rank_stability(noise + 3 * merit) == pytest.approx(1)
    assert rank_stability(noise + 0.1 * merit) < 1
    nothing = [rank_stability(torch.randn(5, 50, generator=draw), n_splits=20) for _ in range(60)]
    assert abs(sum(nothing) / 60) < 0.15
    assert rank_stability(noise, seed=1) == rank_stability(noise, seed=1) != rank_stability(noise, seed=2)


# --- bad input ---------------------------------------------------------------------------------------------


def nan(images: Tensor, visible: Tensor) -> Tensor:
    return torch.full((len(visible), 3), torch.nan)


OBJECTS = torch.zeros(5, 1, SIDE, SIDE, dtype=torch.bool)
CLASSES = torch.zeros(5, dtype=torch.int64)
BAD = {
    r"must be a float tensor \(N, C, \*S\), N above 0, got torch.float32 of \(0, 3": lambda: remove_segments(
        REMOVALS[0], IMAGES[:0], []
    ),
    "4 feature_masks for 5 images": lambda: remove_segments(REMOVALS[0], IMAGES, [CELLS] * 4),
    r"a feature_mask is \(8, 7\) and the images": lambda: remove_segments(
        REMOVALS[0], IMAGES, [CELLS[:, :7]] * 5
    ),
    r"fractions\[1\] is 1.5: give a number from 0 to 1": lambda: remove_segments(
        REMOVALS[0], IMAGES, [CELLS] * 5, fractions=(0.5, 1.5)
    ),
    r"order is \[\(3,\)": lambda: remove_segments(
        REMOVALS[0], IMAGES, [CELLS] * 5, order=[torch.rand(3)] * 5
    ),
    r"objects are torch.float32": lambda: measure_shape_bias(REMOVALS[0], IMAGES, OBJECTS.float()),
    "gets none of 5 whole images right": lambda: shape_bias(CLASSES, CLASSES + 1, CLASSES, CLASSES),
    r"hidden of shape \(4,\) for labels \(5,\)": lambda: shape_bias(CLASSES, CLASSES, CLASSES[:4], CLASSES),
    "go from 7 to 7, .* classes are 0 to 3": lambda: shape_bias(*[CLASSES + 7] * 4).by_class(4),
    r"masks are \(N, 1, \*S\), not empty, got \(8, 8\)": lambda: broken_mask(OBJECTS[0, 0]),
    "not finite for 5 of 5 masks": lambda: measure_shape_bias(nan, IMAGES, OBJECTS),
    "not finite for 1 of 1 masks": lambda: measure_linearity(nan, IMAGES, 4),
    r"give both as \(N, D\)": lambda: linearity(torch.rand(2, 3), torch.rand(2, 4)),
    "perturbations_per_eval is 0": lambda: measure_linearity(nan, IMAGES, 4, perturbations_per_eval=0),
    "n_orders is 0": lambda: r_oms(REMOVALS[0], IMAGES, [CELLS] * 5, n_orders=0),
    "steps is 0": lambda: r_oms(REMOVALS[0], IMAGES, [CELLS] * 5, steps=0),
    "is 0 or less, and losses are shares of it": lambda: random_attribution_bias(
        by_segment(lambda rows: -1 - rows[:, :3]), IMAGES, [CELLS] * 5, output="logit"
    ),
    r"scores are of \(1, 9\): give those of 2 methods": lambda: rank_stability(torch.rand(1, 9)),
    "2 numbers are not finite": lambda: rank_stability(torch.tensor([[1, torch.nan], [torch.inf, 1]])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message: str) -> None:
    with pytest.raises(InputError, match=message):
        BAD[message]()


@pytest.mark.parametrize("measured", [partial(r_oms, steps=3), partial(random_attribution_bias, steps=3)])
def test_no_forward_pass_is_larger_than_asked_for(measured) -> None:
    sizes = []

    def removal(images: Tensor, visible: Tensor) -> Tensor:
        sizes.append(len(visible))
        return 2 * visible[:, 0].flatten(1)[:, :4].float()  # no probabilities

    measured(removal, IMAGES, [CELLS] * 5, perturbations_per_eval=6)
    assert max(sizes) == 6
