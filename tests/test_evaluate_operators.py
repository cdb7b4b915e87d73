"""Which removal can be trusted: rows by slow twins, the methods that are ranked, and what is made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sheets import readable_texts
from test_evaluate import SMALL, columns, five, make_pictures, same
from torch import Tensor, nn

from layermask.data import open_source
from layermask.errors import InputError
from layermask.explain.lime import Lime
from layermask.explain.registry import EXPLAINERS
from layermask.metrics.operators import r_oms, random_attribution_bias, rank_stability
from layermask.removal.registry import removal
from layermask.segment.presets import segmenter
from layermask.segment.segmenters import Grid
from layermask.studies import OperatorStudy, read_results, run
from layermask.studies.operators.attributions import METHODS, Case, method
from layermask.studies.operators.figure import sheet
from layermask.studies.operators.report import summarise, words
from layermask.studies.operators.study import OF_METHODS, OF_REMOVALS, RANDOM_ORDERS
from layermask.studies.orders import own_seed
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded

FEW = ("random", "gradient", "input-x-gradient", "leave-one-out@greyout", "lime@zero")
SETTINGS = dict(segmentations=("grid:8",), methods=FEW, steps=5, n_orders=3, samples=2)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_pictures(tmp_path / "data")


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), SMALL, numbered(5), "five")


@torch.no_grad()
def chance(operator, x: Tensor, shown: list[bool], labels: Tensor, target: int) -> float:
    """The probability of the target with some segments shown."""
    return float(operator(x, torch.tensor(shown)[labels][None, None]).softmax(-1)[0, target])


def slow_scores(name: str, loaded: Loaded, x: Tensor, labels: Tensor, target: int, seed: int) -> np.ndarray:
    count = int(labels.max()) + 1
    if name.startswith("leave-one-out"):
        grey = removal("greyout", loaded.model, SMALL)
        whole = chance(grey, x, [True] * count, labels, target)
        without = [[s != gone for s in range(count)] for gone in range(count)]
        return np.array([whole - chance(grey, x, shown, labels, target) for shown in without])
    if name.startswith("lime"):
        lime = Lime(removal("zero", loaded.model, SMALL), n_samples=2 * count, seed=seed)
        return lime.attribute(x, target, labels).scores[0].numpy()
    pixels = x.clone().requires_grad_()
    loaded.model(pixels)[0, target].backward()
    gradient = pixels.grad[0]
    map_ = gradient.abs().amax(0) if name == "gradient" else (x[0] * gradient).sum(0)
    return np.array([float(map_[labels == segment].sum()) for segment in range(count)])


def slow_area(operator, x: Tensor, labels: Tensor, target: int, order: np.ndarray, steps: int) -> float:
    """The trapezoids under the probability as the first of `order` go, one mask at a time."""
    numbers = np.round(np.linspace(0, len(order), min(steps, len(order)) + 1)).astype(int)
    values = [
        chance(operator, x, [s not in order[:number] for s in range(len(order))], labels, target)
        for number in numbers
    ]
    return float(np.trapezoid(values, numbers / len(order)))


def test_rows_by_slow_twins(data, loaded, tmp_path):
    """The removal's measures by `layermask.metrics`, picture by picture; the methods' by hand."""
    removals = ("layermask", "segment-mean")
    source = open_source(data).pick(3)
    found = columns(OperatorStudy(removals, seed=4, **SETTINGS), loaded, source, tmp_path / "o", batch_size=7)
    rows = iter(range(len(found["image"])))
    for sample in source:
        x = SMALL(sample.load_image())
        labels, target = segmenter("grid:8")(x), int(loaded.model(x).argmax())
        seed = own_seed(sample, "grid:8", 4)
        for judge in removals:
            operator = removal(judge, loaded.model, SMALL, labels)
            drawn = dict(steps=5, n_orders=3, seed=seed)
            luck = random_attribution_bias(operator, x, [labels], **drawn)
            want = {RANDOM_ORDERS: [float(r_oms(operator, x, [labels], **drawn)), luck.bias(), luck.noise()]}
            for name in FEW[1:]:
                scores = slow_scores(name, loaded, x, labels, target, seed)
                first, last = np.argsort(-scores, kind="stable"), np.argsort(scores, kind="stable")
                morf, lerf = (slow_area(operator, x, labels, target, each, 5) for each in (first, last))
                want[name] = [morf, lerf, lerf - morf]
            for name in (RANDOM_ORDERS, *FEW):
                for place, measure in enumerate(OF_REMOVALS if name == RANDOM_ORDERS else OF_METHODS):
                    row = {key: values[at] for at in [next(rows)] for key, values in found.items()}
                    assert (row["image"], row["segmentation"], row["removal"]) == (
                        sample.name,
                        "grid:8",
                        judge,
                    )
                    assert (row["method"], row["measure"]) == (name, measure)
                    assert (row["segments"], row["target"], row["seed"]) == (16, target, 4)
                    if name != "random":
                        assert row["value"] == pytest.approx(want[name][place], abs=1e-5)
    assert next(rows, None) is None


def test_rows_do_not_depend_on_batches_or_other_pictures(data, loaded, tmp_path):
    experiment, source = OperatorStudy(("layermask", "blackout"), **SETTINGS), open_source(data)
    whole = columns(experiment, loaded, source, tmp_path / "a", batch_size=32)
    same(whole, columns(experiment, loaded, source, tmp_path / "b", batch_size=5))
    one = dataclasses.replace(source, samples=source.samples[4:5])
    alone = columns(experiment, loaded, one, tmp_path / "c", batch_size=32)
    for name, values in alone.items():
        np.testing.assert_array_equal(values, whole[name][whole["image"] == "4.png"])


def of(found: dict[str, np.ndarray], **setting: str) -> np.ndarray:
    chosen = np.ones(len(found["image"]), bool)
    for name, value in setting.items():
        chosen &= found[name] == value
    return found["value"][chosen].astype(float)


def test_the_seed_fixes_what_is_random(data, loaded, tmp_path):
    source = open_source(data)
    make = lambda seed: OperatorStudy(("greyout",), seed=seed, **SETTINGS)  # noqa: E731
    a, b, c = (columns(make(s), loaded, source, tmp_path / str(n)) for n, s in enumerate((1, 1, 2)))
    same(a, b)
    for name in (RANDOM_ORDERS, "random", "lime@zero"):
        assert (of(a, method=name) != of(c, method=name)).any()
    for name in ("gradient", "leave-one-out@greyout"):
        np.testing.assert_array_equal(of(a, method=name), of(c, method=name))


def test_judges_share_scores_unless_they_make_their_own(data, loaded, tmp_path):
    asked: dict[str, int] = dict.fromkeys("abc", 0)

    def counting(name, loaded, segments):
        def operator(images, visible):
            asked[name] += len(visible)
            return loaded.model(images * visible)

        return operator

    given = {**SETTINGS, "methods": ("leave-one-out@c",)}
    run(OperatorStudy(("a", "b"), operator=counting, **given), loaded, open_source(data), tmp_path / "x")
    curves = 2 * (3 + 1) * 6  # both ways, three random orders and the method, at six points
    assert asked == {
        "a": 6 * curves,
        "b": 6 * curves,
        "c": 6 * 17,
    }  # once for both: the whole, and 16 without one
    given = {**SETTINGS, "methods": ("leave-one-out", "leave-one-out@greyout", "leave-one-out@blackout")}
    found = columns(
        OperatorStudy(("greyout", "blackout"), **given), loaded, open_source(data), tmp_path / "y"
    )
    for judge in ("greyout", "blackout"):
        own = of(found, removal=judge, method="leave-one-out")
        np.testing.assert_array_equal(own, of(found, removal=judge, method=f"leave-one-out@{judge}"))
    assert (own != of(found, removal="blackout", method="leave-one-out@greyout")).any()


class OneCell(nn.Module):
    """Its answer hangs on one cell of the grid alone, the brighter the surer."""

    cell = 15

    def forward(self, x: Tensor) -> Tensor:
        score = 4 * x[..., 48:, 48:].mean((1, 2, 3)) - 2
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("name", [*METHODS, *(f"{kind}@zero" for kind in EXPLAINERS)])
def test_every_method_finds_the_segment_that_matters(name):
    """But for those that do not look."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    loaded = Loaded(OneCell(), SMALL, numbered(2), "cell")
    labels = Grid(16)(x)
    case = Case(loaded, x, labels, 0, lambda name: removal(name, loaded.model, SMALL), 8, 0, 32)
    scores = method(name).scores(case, method(name).asks or "")
    assert scores.shape == (16,) and scores.isfinite().all()
    assert name == "random" or int(scores.argmax()) == OneCell.cell


def test_the_random_method_is_noise():
    means = [METHODS["random"].scores(_case_of(seed), "").mean() for seed in range(200)]
    assert float(torch.stack(means).mean()) == pytest.approx(0.5, abs=0.02)
    assert len(set(map(float, means))) == 200


def _case_of(seed: int) -> Case:
    nothing = Loaded(OneCell(), SMALL, numbered(2), "cell")
    return Case(
        nothing, torch.zeros(1, 3, 32, 32), Grid(8).labels((32, 32)), 0, lambda name: None, 2, seed, 1
    )


def test_one_segment_says_nothing(data, loaded, tmp_path):
    experiment = OperatorStudy(("greyout", "zero"), **{**SETTINGS, "segmentations": ("grid:32", "grid:8")})
    found, content = read_results(run(experiment, loaded, open_source(data), tmp_path / "out").folder)
    np.testing.assert_array_equal(np.isnan(found["value"]), found["segmentation"] == "grid:32")
    assert "6 images are left out: grid:32 finds only one segment in them." in words(found, content)
    tables = summarise(found, content)
    assert [row[:3] for row in tables[0].rows][:2] == [("grid:32", "greyout", 0), ("grid:32", "zero", 0)]
    assert {row[3] for row in tables[1].rows if row[0] == "grid:32"} == {"-"}
    readable_texts(sheet(found, content))


@pytest.fixture
def results(data, loaded, tmp_path):
    experiment = OperatorStudy(("layermask", "greyout", "zero"), **SETTINGS)
    return read_results(run(experiment, loaded, open_source(data), tmp_path / "out").folder)


def test_the_tables_by_hand(results):
    found, content = results
    trust, methods, agreement = summarise(found, content)
    names = ("layermask", "greyout", "zero")
    gains = {
        judge: np.stack([of(found, removal=judge, method=name, measure="srg") for name in FEW])
        for judge in names
    }
    for row, judge in zip(trust.rows, names, strict=True):
        assert row[:3] == ("grid:8", judge, 6)
        oms, bias, noise = (of(found, removal=judge, measure=measure) for measure in OF_REMOVALS)
        want = [oms.mean(), bias.mean(), np.sqrt(np.mean(noise**2))]
        np.testing.assert_allclose([each.value for each in row[3:6]], want)
        assert all(each.low < each.value < each.high for each in row[3:6])
        assert row[6] == pytest.approx(rank_stability(torch.from_numpy(gains[judge])))
    assert list(trust.better.values()) == [True, False, False, True]
    rows = iter(methods.rows)
    for judge in names:
        means = gains[judge].mean(1)
        for name, mean in zip(FEW, means, strict=True):
            row = next(rows)
            assert row[:3] == ("grid:8", judge, name)
            assert row[3] == 1 + sum(other > mean for other in means)
            want = [of(found, removal=judge, method=name, measure=measure).mean() for measure in OF_METHODS]
            np.testing.assert_allclose([each.value for each in row[4:]], want, atol=1e-12)
            assert row[6].value == pytest.approx(mean) and row[6].low < mean < row[6].high
    for row, judge in zip(agreement.rows, names, strict=True):
        want = [kendalltau(gains[judge].mean(1), gains[other].mean(1)).statistic for other in names]
        np.testing.assert_allclose(row[2:], want, atol=1e-12)
    assert agreement.header == ("segmentation", "removal", *names)


def test_few_methods_or_images_cannot_be_ranked(data, loaded, tmp_path):
    one = OperatorStudy(("greyout",), **{**SETTINGS, "methods": ("random",)})
    found = read_results(run(one, loaded, open_source(data), tmp_path / "a").folder)
    trust, methods, agreement = summarise(*found)
    assert np.isnan(trust.rows[0][6]) and np.isnan(agreement.rows[0][2]) and methods.rows[0][3] == 1
    readable_texts(sheet(*found))
    few = read_results(
        run(OperatorStudy(**SETTINGS), loaded, open_source(data).pick(1), tmp_path / "b").folder
    )
    assert np.isnan(summarise(*few)[0].rows[0][6])
    readable_texts(sheet(*few))


def test_the_figure_can_be_read(results):
    figure = sheet(*results)
    texts = [text for text, _ in readable_texts(figure)]
    for want in ("r-oms (higher)", "random-bias (lower)", "SRG by greyout", "lime@zero", "grid:8", "zero 3"):
        assert texts.count(want) == 1, want
    assert sum(len(axes.patches) for axes in figure.axes) == 4 * 3 + 3 * len(FEW)
    assert sum("#" in text for text in texts) == 3 * len(FEW) + 1


BAD = {
    "method": (
        dict(methods=("gradients",)),
        "unknown method 'gradients': choose from random, .*nearest: gradient",
    ),
    "asks": (dict(methods=("lime@gray",)), "unknown removal 'gray'"),
    "methods": (dict(methods=()), "methods are none: give some"),
    "steps": (dict(steps=0), "steps is 0: give 1 or more"),
    "orders": (dict(n_orders=0), "n_orders is 0: give 1 or more"),
    "samples": (dict(samples=1), "samples is 1: give 2 or more"),
    "segments": (dict(segmentations=("slick",)), "unknown segments 'slick'"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_make_no_experiment(case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        OperatorStudy(**options)


def test_errors_name_the_picture(data, loaded, tmp_path):
    class Hard(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x.mean((1, 2, 3)) > 0).long(), 5).float()

    experiment = OperatorStudy(("greyout",), **{**SETTINGS, "methods": ("input-x-gradient",)})
    with pytest.raises(InputError, match=r"image 0.png: hard has no gradient: leave out the methods"):
        run(experiment, Loaded(Hard(), SMALL, numbered(5), "hard"), open_source(data), tmp_path / "a")

    def broken(name, loaded, segments):
        return lambda images, visible: loaded.model(images).expand(len(visible), -1) / visible.all().float()

    experiment = OperatorStudy(("broken",), operator=broken, **{**SETTINGS, "methods": ("random",)})
    with pytest.raises(InputError, match=r"image 0.png: the model's scores are not finite"):
        run(experiment, loaded, open_source(data), tmp_path / "b")
