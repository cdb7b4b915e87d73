"""Metrics of predicted classes: slow twins on random data, the bootstrap against what is known of it."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.metrics.bootstrap import average, bootstrap, mean_interval, resamples
from layermask.metrics.predictions import (
    PREDICTION_METRICS,
    Predictions,
    accuracy,
    area,
    class_entropy,
    unchanged,
    wordnet_similarity,
)
from layermask.metrics.wordnet import imagenet_hierarchy

DRAW = torch.Generator().manual_seed(0)
PREDICTED = torch.randint(12, (40, 5), generator=DRAW)
LABELS = torch.where(
    torch.rand(40, generator=DRAW) < 0.6, PREDICTED[:, 0], torch.randint(12, (40,), generator=DRAW)
)
FRACTIONS = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])


def given() -> Predictions:
    return Predictions(PREDICTED, FRACTIONS, LABELS, classes=1000)


def slow(name: str, images: list[int], stage: int) -> float:
    """The metric of one stage over some images, in plain Python."""
    predicted = [int(PREDICTED[i, stage]) for i in images]
    labels, whole = [int(LABELS[i]) for i in images], [int(PREDICTED[i, 0]) for i in images]
    if name == "accuracy":
        return sum(p == label for p, label in zip(predicted, labels, strict=True)) / len(images)
    if name == "unchanged":
        return sum(p == w for p, w in zip(predicted, whole, strict=True)) / len(images)
    if name == "class-entropy":
        shares = [predicted.count(each) / len(images) for each in set(predicted)]
        return -sum(p * math.log(p + 1e-7) for p in shares)
    tree = imagenet_hierarchy()
    pairs = zip(predicted, labels, strict=True)
    return sum(tree.wu_palmer(tree.classes[p], tree.classes[label]) for p, label in pairs) / len(images)


@pytest.mark.parametrize("name", PREDICTION_METRICS)
def test_a_curve_is_its_slow_twin(name: str) -> None:
    curve = given().curve(name)
    want = [slow(name, list(range(40)), stage) for stage in range(5)]
    torch.testing.assert_close(curve, torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("name", PREDICTION_METRICS)
def test_weights_are_repeated_images(name: str) -> None:
    drawn = [random.Random(seed).choices(range(40), k=40) for seed in range(4)]
    weights = torch.tensor([[each.count(i) for i in range(40)] for each in drawn], dtype=torch.float64)
    curves = given().curve(name, weights=weights)
    want = [[slow(name, each, stage) for stage in range(5)] for each in drawn]
    torch.testing.assert_close(curves, torch.tensor(want, dtype=torch.float64))


def test_the_hand_made_example() -> None:
    predicted, labels = torch.tensor([[3, 3], [4, 3], [5, 3]]), torch.tensor([3, 3, 5])
    assert accuracy(predicted, labels).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert unchanged(predicted, predicted[:, 0]).tolist() == pytest.approx([1, 1 / 3])
    assert class_entropy(predicted).tolist() == pytest.approx([math.log(3), 0], abs=1e-6)
    assert float(accuracy(predicted[:, 0], labels)) == pytest.approx(2 / 3)  # one stage needs no axis
    assert class_entropy(predicted[:, 0]).ndim == 0


def test_all_labels_known_is_the_most_that_metrics_give() -> None:
    right = Predictions(LABELS[:, None].expand(-1, 3), torch.tensor([0, 0.5, 1]), LABELS)
    for name in ("accuracy", "unchanged"):
        assert float(right.area(name)) == 1
    assert float(wordnet_similarity(LABELS, LABELS)) == pytest.approx(1)


@pytest.mark.parametrize("name", PREDICTION_METRICS)
def test_higher_is_better_as_the_table_says(name: str) -> None:
    worse = PREDICTED.clone()
    worse[:, 1:] = 600  # everything a jersey
    entry = PREDICTION_METRICS[name]
    assert entry.higher_is_better
    good, bad = given(), Predictions(worse, FRACTIONS, LABELS)
    good = Predictions(PREDICTED[:, :1].expand(-1, 5), FRACTIONS, LABELS)
    assert float(good.area(name)) > float(bad.area(name))


# --- areas -------------------------------------------------------------------------------------------------


def test_areas_by_hand() -> None:
    values = torch.tensor([[1.0, 0.5, 0.0], [4.0, 4.0, 4.0]])
    fractions = torch.tensor([0.0, 0.5, 1.0])
    assert area(values, fractions).tolist() == [0.5, 4.0]
    assert area(values, torch.tensor([0.0, 0.2, 1.0]), "trapezoid").tolist() == pytest.approx([0.35, 4.0])
    # the released code's stored accuracies of its ResNet-50 with layer masking, and their two means
    stored = torch.tensor([0.919, 0.911, 0.887, 0.854, 0.802, 0.729, 0.597, 0.433, 0.227, 0.073, 0.0])
    tenths = torch.arange(11) / 10
    assert float(area(stored, tenths)) == pytest.approx(0.5848, abs=3e-4)
    assert float(area(stored, tenths, "trapezoid")) == pytest.approx(0.5974, abs=3e-4)


# --- intervals ---------------------------------------------------------------------------------------------


def test_resamples_are_draws_with_replacement() -> None:
    weights = torch.cat(list(resamples(50, 400, seed=1)))
    assert weights.shape == (400, 50) and bool((weights.sum(1) == 50).all())
    assert float(weights.var(unbiased=False)) == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial(50, 1/50)


def test_chunks_do_not_run_out_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermask.metrics.bootstrap._ROOM", 120)
    parts = list(resamples(50, 7, seed=1))
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    whole = next(iter(resamples(50, 2, seed=1)))
    assert torch.equal(parts[0], whole)


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, low, high = mean_interval(values, n_resamples=4000)
    error = float(values.std() / 20)
    assert float(low) == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.15 * error)
    assert float(high) == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.15 * error)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = torch.Generator().manual_seed(4)
    hits = 0
    for seed in range(200):
        right = torch.rand(80, 3, generator=draw) < torch.tensor([0.9, 0.6, 0.1])
        given_ = Predictions((~right).long() + 5, torch.tensor([0, 0.5, 1]), torch.full((80,), 5))
        _, low, high = given_.interval("accuracy", level=0.9, n_resamples=300, seed=seed)
        hits += bool(low <= 1.6 / 3 <= high)
    assert 0.83 < hits / 200 < 0.96


@pytest.mark.parametrize(("images", "covered"), [(60, 0.7), (300, 0.8)])
def test_the_interval_of_an_entropy_is_about_that_of_as_many_images(images: int, covered: float) -> None:
    draw = torch.Generator().manual_seed(7)
    shares = torch.tensor([0.4] + [0.02] * 30)
    samples = [
        torch.multinomial(shares, images, replacement=True, generator=draw)[:, None] for _ in range(300)
    ]
    expected = float(torch.cat([class_entropy(each) for each in samples]).mean())
    hits = 0
    for each in samples[:100]:
        given_ = Predictions(each, torch.zeros(1))
        _, low, high = given_.interval("class-entropy", level=0.9, n_resamples=300)
        assert low < given_.area("class-entropy") < high  # of 60 images drawn again, it would be far below
        hits += bool(low <= expected <= high)
    assert covered <= hits / 100 <= 0.98


def test_seeds_decide_and_differences_are_paired() -> None:
    one, other = given(), Predictions(PREDICTED.flip(1), FRACTIONS, LABELS, PREDICTED[:, 0])
    assert torch.equal(one.interval("accuracy", seed=2).low, one.interval("accuracy", seed=2).low)
    draws = [one.interval("wordnet-similarity", seed=seed).low for seed in (2, 3)]
    assert not torch.equal(*draws)
    _, low, high = bootstrap(
        lambda weights: one.area("accuracy", weights=weights) - other.area("accuracy", weights=weights), 40
    )
    assert float(low) == pytest.approx(0, abs=1e-12) and float(high) == pytest.approx(0, abs=1e-12)


def test_the_mean_over_images_of_any_shape() -> None:
    values = torch.arange(12.0).view(3, 2, 2)
    weights = torch.tensor([[1.0, 1, 1], [0, 0, 3]], dtype=torch.float64)
    found = average(values, weights)
    assert torch.equal(found[0], values.double().mean(0)) and torch.equal(found[1], values[2].double())


# --- bad input ---------------------------------------------------------------------------------------------


def bad_labels(*values: int) -> Tensor:
    return torch.tensor(values)


BAD = {
    "labels of shape .* go from 3 to 1000, .* 0 to 999: give labels of this model's classes": lambda: (
        Predictions(PREDICTED[:2], FRACTIONS, bad_labels(3, 1000), classes=1000)
    ),
    "labels .* go from -1 to 3": lambda: accuracy(PREDICTED[:2], bad_labels(-1, 3)),
    r"labels of shape \(2,\) for predicted \(40, 5\): give 40, one per image": lambda: accuracy(
        PREDICTED, bad_labels(1, 2)
    ),
    r"predicted of shape \(0, 5\) are of no images": lambda: class_entropy(PREDICTED[:0]),
    r"whole numbers \(N, ...\), got torch.float32": lambda: class_entropy(torch.rand(4)),
    r"unknown metric 'acuracy': choose from .* \(nearest: accuracy": lambda: given().curve("acuracy"),
    "rule is 'simpson'": lambda: given().area("accuracy", "simpson"),  # type: ignore[arg-type]
    "give rising fractions": lambda: area(torch.rand(3), torch.tensor([0, 0.5, 0.4])),
    r"needs labels \(40,\)": lambda: Predictions(PREDICTED, FRACTIONS).area("accuracy"),
    r"needs whole \(40,\)": lambda: Predictions(PREDICTED[:, 1:], FRACTIONS[1:]).area("unchanged"),
    r"predicted \(40, 5\) at fractions \(4,\)": lambda: Predictions(PREDICTED, FRACTIONS[1:]),
    "n_images is 0: give 1 or more": lambda: bootstrap(lambda weights: weights, 0),
    "level is 1.5: give a number between 0 and 1": lambda: mean_interval(torch.rand(3), level=1.5),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message: str) -> None:
    with pytest.raises(InputError, match=message):
        BAD[message]()
