"""Every explainer of the table, against brute force and slow twins, on games whose values are known."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import layermask
from layermask.errors import InputError
from layermask.explain import regression
from layermask.explain.attribution import reliability
from layermask.explain.explainer import Explainer
from layermask.explain.greedy import GreedyDeletion, GreedyInsertion
from layermask.explain.registry import EXPLAINERS, explainer
from layermask.explain.sampling import RankStability
from layermask.metrics.flipping import curve
from layermask.testing.explainers import SIDE, ExplainerLaws, Game, smooth_game, stripes

BY_SEGMENT = ["lime", "kernel-shap", "shapley", "banzhaf", "leave-one-out", "keep-one"]
QUIET = pytest.mark.filterwarnings("ignore:.*too few to tell them apart")


def table_game(count: int, classes: int = 3, seed: int = 0):
    """Every subset has a random value."""
    values = torch.randn(2**count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    powers = 2 ** torch.arange(count)
    return Game(stripes(count), lambda rows: values[(rows.round().long() * powers).sum(1)]), values


IMAGE = ExplainerLaws.image


def build(name: str, removal, **settings) -> Explainer:
    return EXPLAINERS[name](removal, output="logit", **settings)


def shapley(values: Tensor, count: int) -> Tensor:
    """Shapley values (classes, S) by the definition, over every subset."""
    scores = torch.zeros(values.shape[1], count, dtype=torch.double)
    for i in range(count):
        for subset in itertools.product((0, 1), repeat=count):
            if not subset[i]:
                size = sum(subset)
                number = sum(bit << k for k, bit in enumerate(subset))
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                scores[:, i] += weight * (values[number | 1 << i] - values[number])
    return scores


def banzhaf(values: Tensor, count: int, p: float) -> Tensor:
    scores = torch.zeros(values.shape[1], count, dtype=torch.double)
    for i in range(count):
        for number in range(2**count):
            if not number >> i & 1:
                size = bin(number).count("1")
                weight = p**size * (1 - p) ** (count - size - 1)
                scores[:, i] += weight * (values[number | 1 << i] - values[number])
    return scores


# --- exact where they can be -----------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("name", BY_SEGMENT)
@pytest.mark.parametrize("count", [2, 3, 12])
def test_an_additive_model_is_found_exactly(name: str, count: int) -> None:
    weight = torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    settings = {"alpha": 1e-9} if name == "lime" else {}
    found = build(name, Game(stripes(count), lambda rows: rows @ weight), **settings).attribute(
        IMAGE, [0, 2], stripes(count)
    )
    torch.testing.assert_close(found.scores, weight.T[[0, 2]], atol=2e-5, rtol=0)
    if found.stderr is not None and count > 2:
        assert found.stderr.nan_to_num(0).max() < 1e-5
    if found.r2 is not None:
        assert found.r2.min() > 1 - 1e-9


def test_kernel_shap_is_exact_with_all_subsets() -> None:
    game, values = table_game(8)
    found = build("kernel-shap", game, n_samples=254).attribute(IMAGE, [0, 1, 2], stripes(8))
    torch.testing.assert_close(found.scores, shapley(values, 8), atol=1e-5, rtol=0)
    assert found.stderr is None and found.n_samples == 255
    assert sum(game.batches) == 256  # each subset once


@pytest.mark.parametrize("count", range(2, 11))
def test_kernel_shap_lists_every_subset_once(count: int) -> None:
    design = build("kernel-shap", smooth_game(4), n_samples=2**count - 2).design(count)
    rows = torch.cat([design.rows(index) for index in range(len(design.sizes))])
    assert len(rows) == 2**count - 2 == len(rows.unique(dim=0)) and design.exact == len(design.sizes)


@pytest.mark.parametrize("name", ["kernel-shap", "shapley"])
def test_sampled_shapley_values_agree_with_brute_force(name: str) -> None:
    game, values = table_game(8)
    samples = 200 if name == "kernel-shap" else 20000
    found = build(name, game, n_samples=samples, perturbations_per_eval=512).attribute(
        IMAGE, [0, 1], stripes(8)
    )
    truth = shapley(values, 8)[:2]
    assert found.stderr is not None and 0 < found.stderr.max() < (1.0 if name == "kernel-shap" else 0.05)
    assert ((found.scores - truth) / found.stderr).abs().max() < 4.5
    torch.testing.assert_close(found.scores.sum(1), (values[-1] - values[0])[:2], atol=1e-5, rtol=0)


def test_an_order_and_its_reverse_are_exact_where_segments_meet_in_pairs() -> None:
    game = smooth_game(12)
    one = build("shapley", game, n_samples=22).attribute(IMAGE, [0, 1], stripes(12))
    many = build("shapley", game, n_samples=2200).attribute(IMAGE, [0, 1], stripes(12))
    torch.testing.assert_close(one.scores, many.scores, atol=1e-5, rtol=0)
    assert many.stderr is not None and many.stderr.max() < 1e-5


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_banzhaf_is_the_gradient_of_the_multilinear_extension(p: float) -> None:
    game, values = table_game(7)
    found = build("banzhaf", game, n_samples=128, probability=p).attribute(IMAGE, [0, 1, 2], stripes(7))
    torch.testing.assert_close(found.scores, banzhaf(values, 7, p), atol=1e-5, rtol=0)
    x = torch.full((7,), p, dtype=torch.double, requires_grad=True)
    bits = torch.arange(128)[:, None] >> torch.arange(7) & 1
    chance = torch.where(bits.bool(), x, 1 - x).prod(1)
    (gradient,) = torch.autograd.grad(chance @ values[:, 1], x)
    torch.testing.assert_close(found.scores[1], gradient, atol=1e-5, rtol=0)


def test_leave_one_out_and_keep_one_are_differences() -> None:
    game, values = table_game(6)
    out = build("leave-one-out", game).attribute(IMAGE, 1, stripes(6)).scores[0]
    alone = build("keep-one", game).attribute(IMAGE, 1, stripes(6)).scores[0]
    for i in range(6):
        assert float(out[i]) == pytest.approx(float(values[63, 1] - values[63 - 2**i, 1]), abs=1e-5)
        assert float(alone[i]) == pytest.approx(float(values[2**i, 1] - values[0, 1]), abs=1e-5)


# --- standard errors and stopping --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf"])
def test_standard_errors_are_those_of_repeated_runs(name: str) -> None:
    settings = {"n_samples": 440, "perturbations_per_eval": 1000}
    if name == "lime":  # nearly no penalty and weights alike, so that there is hardly a bias
        settings |= {"alpha": 1e-6, "kernel_width": 2.0}
    runs = [
        build(name, smooth_game(12), seed=seed, **settings).attribute(IMAGE, 0, stripes(12))
        for seed in range(40)
    ]
    scores = torch.stack([run.scores[0] for run in runs])
    errors = torch.stack([run.stderr[0] for run in runs])  # type: ignore[index]
    ratio = errors.square().mean(0).sqrt().mean() / scores.std(0).mean()
    assert 0.8 < ratio < 1.25, ratio
    low, high = runs[0].interval(0.95)
    torch.testing.assert_close(high - low, 2 * 1.959964 * runs[0].stderr)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf", "rise"])
def test_sampling_stops_when_the_ranking_is_stable(name: str) -> None:
    wanted = {"n_samples": 40000, "perturbations_per_eval": 4096}
    strict = build(name, smooth_game(12), converge=0.001, **wanted).attribute(IMAGE, 0, stripes(12))
    loose = build(name, smooth_game(12), converge=0.2, **wanted).attribute(IMAGE, 0, stripes(12))
    assert loose.n_samples <= strict.n_samples < 30000
    assert strict.settings["converge"] == 0.001
    again = build(name, smooth_game(12), converge=0.2, **wanted | {"perturbations_per_eval": 7})
    assert torch.equal(again.attribute(IMAGE, 0, stripes(12)).scores, loose.scores)


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf"])
def test_reliability_is_the_correlation_of_two_seeds(name: str) -> None:
    """Of a game with much interaction, so that a few hundred masks leave an error to speak of."""
    game, settings = noisy_game(), {"n_samples": 264}
    if name == "lime":
        settings |= {"alpha": 1e-6, "kernel_width": 2.0}
    runs = [build(name, game, seed=seed, **settings).attribute(IMAGE, 0, stripes(12)) for seed in range(40)]
    scores = torch.stack([run.scores[0] for run in runs])
    agreement = torch.corrcoef(scores)[torch.ones(40, 40).triu(1).bool()].mean()
    stated = torch.cat([run.reliability() for run in runs]).mean()
    assert agreement < 0.9 and abs(agreement - stated) < 0.1, (agreement, stated)


def noisy_game() -> Game:
    """Scores differ little, and triples of segments matter as much as single ones."""
    draw = torch.Generator().manual_seed(5)
    weight = 0.25 * torch.randn(12, generator=draw, dtype=torch.double)
    triples = torch.stack([torch.randperm(12, generator=draw)[:3] for _ in range(40)])
    signs = torch.randn(40, generator=draw, dtype=torch.double)

    def value(rows: Tensor) -> Tensor:
        spins = 2 * rows - 1
        return torch.stack([spins @ weight + spins[:, triples].prod(2) @ signs / 4, rows[:, 0]], 1)

    return Game(stripes(12), value)


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf", "rise"])
def test_sampling_stops_when_the_scores_are_settled(name: str) -> None:
    most = {"kernel-shap": 1500, "banzhaf": 3000}.get(name, 40000)  # those two are exact with 4,096
    settings = {"n_samples": most, "perturbations_per_eval": 4096}
    asked = []
    for precision in (0.5, 0.8, 0.95):
        found = build(name, noisy_game(), precision=precision, **settings).attribute(IMAGE, 0, stripes(12))
        assert found.n_samples < most and found.reliability().min() >= precision
        assert found.record()["settled"] is True and found.settings["precision"] == precision
        asked.append(found.n_samples)
    assert asked == sorted(asked) and asked[0] < asked[-1]


def test_what_did_not_settle_says_so() -> None:
    found = build("lime", noisy_game(), precision=0.999, n_samples=300).attribute(IMAGE, 0, stripes(12))
    record = found.record()
    assert (record["n_samples"], record["settled"]) == (300, False) and record["reliability"][0] < 0.999


def test_exact_scores_are_settled() -> None:
    found = build("banzhaf", noisy_game(), precision=0.99, n_samples=4096).attribute(IMAGE, 0, stripes(12))
    assert found.stderr is None and found.n_samples == 4096 and found.record()["settled"] is True


def test_every_target_has_to_settle() -> None:
    runs = [
        build("lime", noisy_game(), precision=0.9, n_samples=20000).attribute(IMAGE, targets, stripes(12))
        for targets in (1, [0, 1])
    ]
    assert runs[0].n_samples < runs[1].n_samples


def test_reliability_at_its_ends() -> None:
    scores = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 2, 3], [2, 2, 2], [2, 2, 2]]).double()
    errors = torch.tensor([[0.0] * 3, [0.5] * 3, [torch.nan] * 3, [0.0] * 3, [0.1] * 3]).double()
    assert reliability(scores, errors).tolist() == [1, 0.75, 0, 1, 0]


def test_many_segments_are_fitted_by_cholesky_where_that_is_safe(monkeypatch) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(90, 40, generator=draw, dtype=torch.double)
    good, few = rows.T @ rows, rows[:30].T @ rows[:30]
    wanted = [regression.invert(each) for each in (good, few)]
    monkeypatch.setattr(regression, "LARGE", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.linalg, "pinv", lambda *given, **more: pytest.fail("decomposed into eigenvectors")
        )
        torch.testing.assert_close(regression.invert(good), wanted[0])
    torch.testing.assert_close(regression.invert(few), wanted[1])


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_lists_every_explainer() -> None:
    page = Path(__file__).parents[1].joinpath("docs/explaining.md").read_text()
    listed = re.findall(r"^\| `(.*?)` \| `(.*?)` \|", page, re.MULTILINE)
    assert listed == [(name, each.__name__) for name, each in EXPLAINERS.items()]
    assert all(hasattr(layermask.explain, each.__name__) for each in EXPLAINERS.values())


def test_a_ranking_is_stable_once_it_agreed_twice_in_a_row() -> None:
    up, down = torch.arange(5.0)[None], torch.arange(5.0).flip(0)[None]
    near = torch.tensor([[1.0, 0, 2, 3, 4]])  # correlation 0.9 with up
    assert [RankStability(0.05).reached(up)] == [False]
    for tolerance, looks, want in (
        (0.05, [up, up, up], [False, False, True]),
        (0.05, [up, up, down, up, up, up], [False, False, False, False, False, True]),
        (0.05, [up, near, up, near], [False] * 4),
        (0.15, [up, near, up], [False, False, True]),
        (0.15, [torch.cat([up, up]), torch.cat([up, down]), torch.cat([up, up])], [False] * 3),
        (None, [up, up, up], [False] * 3),
    ):
        stability = RankStability(tolerance)
        assert [stability.reached(look) for look in looks] == want


# --- slow twins --------------------------------------------------------------------------------------------


def pixel_game() -> Game:
    weight = torch.randn(SIDE * SIDE, 2, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return Game(torch.arange(SIDE * SIDE), lambda rows: (rows @ weight).tanh())


@pytest.mark.filterwarnings("ignore:sliding_window_shapes is 20")
@pytest.mark.parametrize(("window", "stride"), [(4, 2), ((5, 3), (2, 3)), (20, 7)])
def test_occlusion_is_its_slow_twin(window, stride) -> None:
    game = pixel_game()
    found = build("occlusion", game, sliding_window_shapes=window, strides=stride).attribute(IMAGE, 1)
    (height, width), (down, across) = ((s, s) if isinstance(s, int) else s for s in (window, stride))
    lost = [[[] for _ in range(SIDE)] for _ in range(SIDE)]
    whole = game(IMAGE, torch.ones(1, 1, SIDE, SIDE))[0, 1]
    top = 0
    while True:
        left = 0
        while True:
            visible = torch.ones(1, 1, SIDE, SIDE)
            visible[..., top : top + height, left : left + width] = 0
            change = float(whole - game(IMAGE, visible)[0, 1])
            for y in range(top, min(top + height, SIDE)):
                for x in range(left, min(left + width, SIDE)):
                    lost[y][x].append(change)
            if left + width >= SIDE:
                break
            left += across
        if top + height >= SIDE:
            break
        top += down
    want = torch.tensor([[sum(cell) / len(cell) for cell in row] for row in lost], dtype=torch.double)
    torch.testing.assert_close(found.heatmap(), want, atol=1e-6, rtol=0)
    assert (
        found.n_samples == len({tuple(m) for m in [(0,)]}) * game.batches[1:].__len__() or found.n_samples > 0
    )


def test_rise_is_its_slow_twin() -> None:
    game = pixel_game()
    rise = build("rise", game, n_samples=300, cells=3, seed=4)
    found = rise.attribute(IMAGE, 0)
    masks = torch.cat([rise.masks(0, 256, (SIDE, SIDE)), rise.masks(1, 44, (SIDE, SIDE))])  # type: ignore[attr-defined]
    answers = torch.cat([game(IMAGE, mask[None, None]) for mask in masks])[:, 0]
    for y, x in ((0, 0), (3, 7), (11, 11)):
        shown = answers[masks[:, y, x]]
        assert float(found.heatmap()[y, x]) == pytest.approx(float(shown.mean() - answers.mean()), abs=1e-6)
        error = float(shown.std() / len(shown) ** 0.5)
        assert float(found.stderr[0, y * SIDE + x]) == pytest.approx(error, rel=0.02)  # type: ignore[index]


def test_rise_masks_show_cells_of_the_size_asked_for() -> None:
    masks = build("rise", smooth_game(4), cells=3, probability=0.3).masks(0, 256, (30, 31))  # type: ignore[attr-defined]
    assert float(masks.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert masks.float().mean(0).std() < 0.05  # every pixel alike
    edges = masks[:, 1:] != masks[:, :-1]
    rows = [torch.unique(mask.nonzero()[:, 0]) for mask in edges]
    assert all(((row[1:] - row[:-1]) % 10 == 0).all() for row in rows)


def test_pixel_methods_average_over_a_feature_mask() -> None:
    for name in ("occlusion", "rise"):
        explainer = build(name, pixel_game(), **({"n_samples": 64} if name == "rise" else {}))
        pixels, bands = explainer.attribute(IMAGE, 0), explainer.attribute(IMAGE, 0, stripes(4))
        want = torch.stack([pixels.heatmap()[stripes(4) == i].mean() for i in range(4)])
        torch.testing.assert_close(bands.scores[0], want)


# --- minimal sufficient regions ----------------------------------------------------------------------------


def needs(*sets: set[int]):
    """Class 1 as soon as all of some set is shown, else class 0; its score says how near the best set is."""

    def value(rows: Tensor) -> Tensor:
        near = torch.stack([rows[:, sorted(s)].mean(1) for s in sets]).amax(0)
        return torch.stack([torch.full_like(near, 0.99), near], 1)

    return value


@pytest.mark.parametrize("kind", [GreedyInsertion, GreedyDeletion])
@pytest.mark.parametrize("step", [1, 3, None])
def test_the_region_is_sufficient_and_minimal(kind, step) -> None:
    segments = stripes(12)
    game = Game(segments, needs({2, 5, 7}, {0, 1, 3, 4, 6}))
    image = torch.zeros(1, 3, SIDE, SIDE)
    found = kind(game, output="logit", step=step).attribute(image, None, segments)
    region = found.region[0]
    shown = set(region.nonzero()[:, 0].tolist())
    assert found.targets == (1,)
    assert {2, 5, 7} <= shown or {0, 1, 3, 4, 6} <= shown
    assert game(image, found.visible(region))[0].argmax() == 1
    for index in region.nonzero()[:, 0]:
        less = region.index_fill(0, index, False)
        assert game(image, found.visible(less))[0].argmax() == 0


def test_a_segment_that_turns_out_not_to_be_needed_goes_again() -> None:
    """Segment 0 alone says most, and 1 and 2 together all."""

    def value(rows: Tensor) -> Tensor:
        near = torch.maximum(0.6 * rows[:, 0], rows[:, 1:3].mean(1))
        return torch.stack([torch.full_like(near, 0.99), near], 1)

    image = torch.zeros(1, 3, SIDE, SIDE)
    found = GreedyInsertion(Game(stripes(4), value), output="logit").attribute(image, None, stripes(4))
    assert found.region is not None and found.region[0].tolist() == [False, True, True, False]
    assert found.scores[0, 0] == 0


def test_a_region_for_another_class_than_the_prediction_is_refused() -> None:
    game = Game(stripes(4), needs({1}))
    with pytest.raises(InputError, match=r"keeps the model's prediction, class 1: targets \[0\]"):
        GreedyInsertion(game, output="logit").attribute(IMAGE, 0, stripes(4))


# --- curves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["insertion", "deletion"])
def test_curves_are_those_of_masks_made_by_hand(order: str) -> None:
    game, values = table_game(6)
    found = build("leave-one-out", game).attribute(IMAGE, [0, 2], stripes(6))
    drawn = curve(game, IMAGE, found, order, steps=6, output="logit", perturbations_per_eval=4)  # type: ignore[arg-type]
    assert drawn.shares.tolist() == pytest.approx([i / 6 for i in range(7)])
    for row, target in enumerate((0, 2)):
        best = found.scores[row].argsort(descending=True).tolist()
        for k in range(7):
            moved = sum(2**i for i in best[:k])
            want = values[moved if order == "insertion" else 63 - moved, target]
            assert float(drawn.values[row, k]) == pytest.approx(float(want + IMAGE.mean()), abs=1e-5)
    area = sum((drawn.values[0, k] + drawn.values[0, k + 1]) / 2 / 6 for k in range(6))
    assert float(drawn.area()[0]) == pytest.approx(float(area))
    assert len(curve(game, IMAGE, found, order, steps=2).shares) == 3  # type: ignore[arg-type]


# --- laws of the whole table -------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ExplainerLaws.names())
@pytest.mark.parametrize("name", EXPLAINERS)
def test_law(name: str, law: str) -> None:
    settings = {"n_samples": 100} if hasattr(EXPLAINERS[name], "n_samples") else {}
    ExplainerLaws.of(EXPLAINERS[name], settings=settings)(law).debug()


def test_settings_can_be_given_with_the_call_as_in_captum() -> None:
    game = smooth_game(6)
    found = build("lime", game).attribute(IMAGE, 0, stripes(6)[None, None], n_samples=50, seed=7)
    want = build("lime", game, n_samples=50, seed=7).attribute(IMAGE, 0, stripes(6))
    assert torch.equal(found.scores, want.scores) and found.settings["n_samples"] == 50


# --- bad input ---------------------------------------------------------------------------------------------


def same(value: float, *shape: int):
    """A removal that answers one value whatever it is shown."""
    return lambda images, visible: torch.full((len(visible), *shape), value)


BAD = {
    r"no setting 'samples' \(nearest: n_samples\): it has perturbations_per_eval": lambda: explainer("lime")(
        smooth_game(4)
    ).attribute(IMAGE, 0, stripes(4), samples=3),
    "one segment for the whole image": lambda: build("lime", smooth_game(4)).attribute(IMAGE, 0, stripes(1)),
    r"has the classes 0 to 2": lambda: build("shapley", smooth_game(4)).attribute(IMAGE, 3, stripes(4)),
    "not finite for 1 of 1 masks": lambda: build("lime", same(math.nan, 3)).attribute(IMAGE, 0, stripes(4)),
    "the model has one class": lambda: EXPLAINERS["lime"](same(1.0, 1)).attribute(IMAGE, 0, stripes(4)),
    r"answers \(1, 3, 4\) for 1 pictures": lambda: build("lime", same(1.0, 3, 4)).attribute(
        IMAGE, 0, stripes(4)
    ),
    "unknown method 'shap': choose from": lambda: explainer("shap"),
    "order is 'up': choose insertion or deletion": lambda: curve(
        smooth_game(4),
        IMAGE,
        build("keep-one", smooth_game(4)).attribute(IMAGE, 0, stripes(4)),
        "up",  # type: ignore[arg-type]
    ),
    "output is 'odds'": lambda: EXPLAINERS["lime"](smooth_game(4), output="odds"),
    "converge is 2": lambda: build("banzhaf", smooth_game(4), converge=2),
    "probability is 1": lambda: build("rise", smooth_game(4), probability=1),
    "give one number above 0, or one per axis": lambda: build(
        "occlusion", pixel_game(), sliding_window_shapes=(3, 3, 3)
    ).attribute(IMAGE, 0),
    "strides 9 is over the window's 4 pixels": lambda: build(
        "occlusion", pixel_game(), sliding_window_shapes=4, strides=9
    ).attribute(IMAGE, 0),
    "a label map is integers": lambda: build("lime", smooth_game(4)).attribute(IMAGE, 0, stripes(4).float()),
    "has no standard errors": lambda: (
        build("keep-one", smooth_game(4)).attribute(IMAGE, 0, stripes(4)).interval()
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message: str) -> None:
    with pytest.raises(InputError, match=message):
        BAD[message]()


def test_labels_with_gaps_are_relabelled_and_said() -> None:
    odd = torch.tensor([-4, 7, 9])[stripes(3)]
    with pytest.warns(UserWarning, match="3 labels from -4 to 9: relabelled 0 to 2"):
        found = build("leave-one-out", smooth_game(3)).attribute(IMAGE, 0, odd)
    assert torch.equal(found.segments, stripes(3))


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf"])
def test_too_few_samples_are_said(name: str) -> None:
    with pytest.warns(UserWarning, match=r"n_samples is 10 for 12 segments, too few .*: give 2[24] or more"):
        found = build(name, smooth_game(12), n_samples=10).attribute(IMAGE, 0, stripes(12))
    assert found.scores.isfinite().all()
