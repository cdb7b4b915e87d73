"""Metrics of attributions: localisation, flipping, subsets; slow twins and games with known values."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import layermask as lm
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.metrics.flipping import (
    curve,
    deletion,
    flipping_curves,
    insertion,
    least_relevant_first,
    road,
    symmetric_relevance_gain,
)
from layermask.metrics.localisation import alignment, top_k, top_k_ablation, top_k_jaccard
from layermask.metrics.subsets import infidelity, sensitivity_curve, sensitivity_n

SIDE = 8
CELLS = lm.Grid(2).labels((SIDE, SIDE))  # 16 segments
DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=DRAW)
BANDS = torch.arange(SIDE).expand(SIDE, SIDE)  # 8 segments
MAPS = [CELLS, BANDS, CELLS.flip(0), CELLS]


def found(scores: Tensor, segments: Tensor, targets: tuple[int, ...] = (0, 2)) -> Attribution:
    return Attribution(scores, segments, targets, torch.zeros(len(targets)))


SCORES = [torch.randn(2, int(each.max()) + 1, generator=DRAW, dtype=torch.double) for each in MAPS]
FOUND = [found(scores, each) for scores, each in zip(SCORES, MAPS, strict=True)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * self.head(self.body(x))


MODEL = Model().eval()
REMOVALS = [lm.LayerMasking(MODEL), lm.removal.ConstantFill(MODEL, 0.3)]


def additive(weights: Tensor):
    """Answers rows (n, 16) of shown segments with rows @ weights (16, classes)."""

    def removal(images: Tensor, visible: Tensor) -> Tensor:
        sums = torch.zeros(len(visible), 16, dtype=torch.double)
        return sums.index_add_(1, CELLS.flatten(), visible.flatten(1).double()) / 4 @ weights

    return removal


WEIGHTS = torch.randn(16, 3, generator=DRAW, dtype=torch.double)
TRUE = found(WEIGHTS.T[[0, 2]], CELLS)


def ask(removal, image: Tensor, segments: Tensor, shown: set[int], target: int, output: str = "probability"):
    visible = torch.tensor([[int(label) in shown for label in line] for line in segments])
    with torch.no_grad():
        logits = removal(image[None], visible[None, None])[0].float()
    return float(logits.softmax(0)[target] if output == "probability" else logits[target])


# --- localisation ------------------------------------------------------------------------------------------


def test_alignment_and_jaccard_by_hand() -> None:
    segments = torch.tensor([[0, 0, 1], [2, 2, 1]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])  # mean 1/2: segment excesses 1, −1, 0
    scores = torch.tensor([3.0, -3.0, 0.0])
    assert alignment(scores, segments, mask) == pytest.approx(1)
    assert alignment(torch.tensor([0.0, 0, 5]), segments, mask) == pytest.approx(0)
    assert alignment(torch.tensor([1.0, 0, 1]), segments, mask) == pytest.approx(0.5)
    assert alignment(torch.zeros(3), segments, mask) == 0
    assert top_k_jaccard(scores, segments, mask, k=1) == pytest.approx(2 / 3)
    assert top_k_jaccard(scores, segments, mask, k=2) == pytest.approx(3 / 4)
    assert top_k_jaccard(scores, segments, mask.float() / 2, k=1) == pytest.approx(1 / 2.5)
    assert top_k_jaccard(-scores, segments, mask, k=1) == 0
    assert top_k(scores, 2).tolist() == [True, False, True] and bool(top_k(scores, 9).all())


def test_alignment_and_jaccard_are_their_slow_twins() -> None:
    mask = (torch.rand(SIDE, SIDE, generator=DRAW) < 0.3).float()
    for scores, segments in zip(SCORES, MAPS, strict=True):
        mean, sums = float(mask.mean()), [0.0] * len(scores[0])
        for y, x in itertools.product(range(SIDE), range(SIDE)):
            sums[int(segments[y, x])] += float(mask[y, x]) - mean
        dot = sum(a * b for a, b in zip(sums, scores[0].tolist(), strict=True))
        norms = math.hypot(*sums) * math.hypot(*scores[0].tolist())
        assert alignment(scores[0], segments, mask) == pytest.approx(dot / norms)
        best = sorted(range(len(sums)), key=lambda i: -float(scores[0, i]))[:5]
        inside = {
            (y, x) for y, x in itertools.product(range(SIDE), range(SIDE)) if int(segments[y, x]) in best
        }
        object_ = {(int(y), int(x)) for y, x in mask.nonzero()}
        want = len(inside & object_) / len(inside | object_)
        assert top_k_jaccard(scores[0], segments, mask, k=5) == pytest.approx(want)


@pytest.mark.parametrize("row", [0, 1])
def test_top_k_ablation_is_its_slow_twin(row: int) -> None:
    removal = additive(torch.randn(16, 3, generator=torch.Generator().manual_seed(5), dtype=torch.double))
    labels = torch.tensor([0, 1, 1, 2])
    right = top_k_ablation(removal, IMAGES, FOUND, labels, k=6, row=row, batch_size=3)
    assert right.any() and not right.all()
    for i, each in enumerate(FOUND):
        best = each.scores[row].argsort(descending=True)[:6].tolist()
        shown = set(range(each.scores.shape[1])) - set(best)
        answers = [ask(removal, IMAGES[i], each.segments, shown, c) for c in range(3)]
        assert bool(right[i]) == (answers.index(max(answers)) == int(labels[i]))


# --- flipping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("order", ["insertion", "deletion", "lerf"])
def test_flipping_curves_are_their_slow_twins(removal: nn.Module, order: str) -> None:
    drawn = flipping_curves(removal, IMAGES, FOUND, order, steps=8, perturbations_per_eval=7)  # type: ignore[arg-type]
    for image, each, line in zip(IMAGES, FOUND, drawn, strict=True):
        count = each.scores.shape[1]
        for row, target in enumerate(each.targets):
            by_score = each.scores[row].argsort(descending=order != "lerf").tolist()
            for k in range(9):
                moved = set(by_score[: k * count // 8])
                shown = moved if order == "insertion" else set(range(count)) - moved
                want = ask(removal, image, each.segments, shown, target)
                assert float(line.values[row, k]) == pytest.approx(want, abs=1e-6)


def test_insertion_and_deletion_are_the_areas_of_explain_curve() -> None:
    for metric, order in ((insertion, "insertion"), (deletion, "deletion")):
        areas = metric(REMOVALS[0], IMAGES, FOUND, steps=5, output="logit")
        each = zip(IMAGES.split(1), FOUND, strict=True)
        want = [curve(REMOVALS[0], x, a, order, 5, output="logit").area() for x, a in each]
        torch.testing.assert_close(areas, torch.stack(want), atol=1e-6, rtol=1e-6)


def test_srg_of_true_scores_is_the_largest_of_all_orders() -> None:
    removal, image = additive(WEIGHTS), IMAGES[:1]
    settings = {"steps": 16, "output": "logit"}
    true = symmetric_relevance_gain(removal, image, [TRUE], **settings)
    lif = least_relevant_first(removal, image, [TRUE], **settings)
    torch.testing.assert_close(true, lif - deletion(removal, image, [TRUE], **settings))
    for _ in range(20):
        other = replace(TRUE, scores=torch.randn(2, 16, generator=DRAW, dtype=torch.double))
        gain = symmetric_relevance_gain(removal, image, [other], **settings)
        assert bool((gain < true).all())
        back = symmetric_relevance_gain(removal, image, [replace(other, scores=-other.scores)], **settings)
        torch.testing.assert_close(gain, -back)  # reversed scores, reversed gain


def test_road_is_flipping_with_noisy_linear_imputation() -> None:
    fill = lm.removal.NoisyLinearFill(MODEL)
    assert torch.equal(road(MODEL, IMAGES, FOUND, steps=3), deletion(fill, IMAGES, FOUND, steps=3))
    lerf = road(MODEL, IMAGES, FOUND, "lerf", steps=3)
    assert torch.equal(lerf, least_relevant_first(fill, IMAGES, FOUND, steps=3))


# --- subsets -----------------------------------------------------------------------------------------------


def test_true_scores_of_an_additive_model_are_faithful() -> None:
    removal, image = additive(WEIGHTS), IMAGES[:1]
    good = infidelity(removal, image, [TRUE], output="logit")
    assert float(good.max()) < 1e-9
    bad = infidelity(removal, image, [replace(TRUE, scores=TRUE.scores.flip(1))], output="logit")
    assert bool((bad > 0.1).all())
    assert sensitivity_n(removal, image, [TRUE], output="logit").tolist() == [pytest.approx([1, 1], abs=1e-6)]
    back = sensitivity_n(removal, image, [replace(TRUE, scores=-TRUE.scores)], output="logit")
    assert back.tolist() == [pytest.approx([-1, -1], abs=1e-6)]


def test_infidelity_is_its_expectation() -> None:
    # one segment's score off by e: the error is e² in the half of the subsets that hide it
    off = WEIGHTS.T[[0, 2]].clone()
    off[:, 3] += torch.tensor([0.5, 2.0], dtype=torch.double)
    got = infidelity(additive(WEIGHTS), IMAGES[:1], [found(off, CELLS)], n_samples=20000, output="logit")
    assert got.tolist() == [pytest.approx([0.125, 2.0], rel=0.05)]
    rare = {"n_samples": 20000, "probability": 0.2, "output": "logit"}
    got = infidelity(additive(WEIGHTS), IMAGES[:1], [found(off, CELLS)], **rare)
    assert got.tolist() == [pytest.approx([0.05, 0.8], rel=0.08)]
    scaled = replace(TRUE, scores=7 * TRUE.scores)
    assert (
        float(infidelity(additive(WEIGHTS), IMAGES[:1], [scaled], normalize=True, output="logit").max())
        < 1e-9
    )


@pytest.mark.parametrize("removal", REMOVALS)
def test_infidelity_and_sensitivity_are_their_slow_twins(removal: nn.Module) -> None:
    """The subsets hidden are read off the masks asked for."""
    asked: list[Tensor] = []

    def spy(images: Tensor, visible: Tensor) -> Tensor:
        asked.append(visible)
        return removal(images, visible)

    each, image = FOUND[0], IMAGES[:1]
    whole = [ask(removal, image[0], CELLS, set(range(16)), target) for target in each.targets]

    def pairs(masks: Tensor, row: int) -> list[tuple[float, float]]:
        hidden = [{int(s) for s in CELLS[~mask[0]].unique()} for mask in masks]
        return [
            (
                sum(float(each.scores[row, s]) for s in gone),
                whole[row] - ask(removal, image[0], CELLS, set(range(16)) - gone, each.targets[row]),
            )
            for gone in hidden
        ]

    got = infidelity(spy, image, [each], n_samples=9, perturbations_per_eval=4)
    for row in range(2):
        errors = [(a - b) ** 2 for a, b in pairs(torch.cat(asked)[:-1], row)]  # the last shows all
        assert float(got[0, row]) == pytest.approx(sum(errors) / 9, rel=1e-5)
    asked.clear()
    got = sensitivity_curve(spy, image, [each], shares=(0.2, 0.5), n_samples=6, perturbations_per_eval=4)
    masks = torch.cat(asked)[:-1].flip(0)  # they come from the one that shows least
    assert (~masks).flatten(1).sum(1).tolist() == [3 * 4] * 6 + [8 * 4] * 6
    for row, place in itertools.product(range(2), range(2)):
        a, b = zip(*pairs(masks[6 * place : 6 * place + 6], row), strict=True)
        want = torch.corrcoef(torch.tensor([a, b], dtype=torch.double))[0, 1]
        assert float(got[0, row, place]) == pytest.approx(float(want), abs=1e-4)


def test_a_correlation_that_is_not_defined_is_nought() -> None:
    flat = additive(torch.ones(16, 3, dtype=torch.double))
    assert sensitivity_n(flat, IMAGES[:1], [TRUE], output="logit").tolist() == [[0, 0]]


# --- laws of them all --------------------------------------------------------------------------------------

METRICS = {
    "insertion": insertion,
    "deletion": deletion,
    "srg": symmetric_relevance_gain,
    "infidelity": infidelity,
    "sensitivity-n": sensitivity_n,
}


@pytest.mark.parametrize("name", METRICS)
def test_neither_the_batch_size_nor_other_images_change_anything(name: str) -> None:
    sizes: list[int] = []
    done: list[int] = []

    def removal(images: Tensor, visible: Tensor) -> Tensor:
        sizes.append(len(visible))
        return REMOVALS[0](images, visible)

    whole = METRICS[name](removal, IMAGES, FOUND, perturbations_per_eval=1000, show_progress=done.append)
    assert whole.shape == (4, 2) and whole.dtype == torch.double and sum(done) == sum(sizes)
    sizes.clear()
    parts = METRICS[name](removal, IMAGES, FOUND, perturbations_per_eval=13)
    assert max(sizes) == 13  # full, across images
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    alone = [METRICS[name](removal, x, [a]) for x, a in zip(IMAGES.split(1), FOUND, strict=True)]
    torch.testing.assert_close(torch.cat(alone), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["infidelity", "sensitivity-n"])
def test_the_seed_decides(name: str) -> None:
    runs = [METRICS[name](REMOVALS[0], IMAGES, FOUND, seed=seed, n_samples=10) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# --- bad input ---------------------------------------------------------------------------------------------

MASK = torch.ones(SIDE, SIDE)
BAD = {
    "order is 'up'": lambda: flipping_curves(REMOVALS[0], IMAGES, FOUND, "up"),  # type: ignore[arg-type]
    "steps is 0": lambda: deletion(REMOVALS[0], IMAGES, FOUND, steps=0),
    "3 attributions for 4 images": lambda: insertion(REMOVALS[0], IMAGES, FOUND[:3]),
    "N above 0, got torch.float32 of \\(0, 3, 8, 8\\)": lambda: deletion(REMOVALS[0], IMAGES[:0], []),
    "targets go from 0 to 9: the model has the classes 0 to 4": lambda: deletion(
        REMOVALS[0], IMAGES[:1], [found(SCORES[0], CELLS, (0, 9))]
    ),
    r"of an image \(8, 4\) and the images are": lambda: deletion(
        REMOVALS[0], IMAGES[:1], [found(SCORES[0], CELLS[:, :4])]
    ),
    r"scores are \(2, 32\), 64 of them finite, for 2 targets and 16 segments": lambda: deletion(
        REMOVALS[0], IMAGES[:1], [found(SCORES[0].repeat(1, 2), CELLS)]
    ),
    "output is 'odds'": lambda: deletion(REMOVALS[0], IMAGES, FOUND, output="odds"),
    "perturbations_per_eval is 0": lambda: deletion(REMOVALS[0], IMAGES, FOUND, perturbations_per_eval=0),
    "attributions of equally many targets": lambda: deletion(
        REMOVALS[0], IMAGES[:2], [FOUND[0], found(SCORES[1][:1], BANDS, (0,))]
    ),
    "order is 'random': choose morf or lerf": lambda: road(MODEL, IMAGES, FOUND, "random"),  # type: ignore[arg-type]
    "n_samples is 0: give 1 or more": lambda: infidelity(REMOVALS[0], IMAGES, FOUND, n_samples=0),
    r"shares\[0\] is 1.0: give a number between": lambda: sensitivity_n(
        REMOVALS[0], IMAGES, FOUND, shares=(1.0,)
    ),
    "k is 0": lambda: top_k_jaccard(SCORES[0][0], CELLS, MASK, k=0),
    r"scores are \(5,\), 5 of them finite, for 16 segments": lambda: alignment(SCORES[0][0, :5], CELLS, MASK),
    r"object mask is \(8, 7\)": lambda: alignment(SCORES[0][0], CELLS, MASK[:, :7]),
    "goes from 255 to 255": lambda: alignment(SCORES[0][0], CELLS, 255 * MASK),
    "goes from 0 to 0: give .* some object": lambda: top_k_jaccard(SCORES[0][0], CELLS, 0 * MASK),
    "4 attributions, 3 labels": lambda: top_k_ablation(
        REMOVALS[0], IMAGES, FOUND, torch.zeros(3, dtype=torch.int64)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message: str) -> None:
    with pytest.raises(InputError, match=message):
        BAD[message]()
