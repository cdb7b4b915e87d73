"""Segment removal over many pictures: the rows, and that they depend on nothing but the settings."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from layermask.data import open_source
from layermask.errors import InputError, ModelError
from layermask.io.ahead import ahead
from layermask.removal.registry import removal
from layermask.segment.presets import segmenter
from layermask.studies import SegmentStudy, read_results, run
from layermask.studies.orders import input_gradient
from layermask.studies.segments.report import summarise, words
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

SMALL = Preprocessing((36, 36), (32, 32))
SEGMENTS = ("grid:8", "slic:n_segments=9")


def five() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    return nn.Sequential(*layers).eval()


def make_pictures(root: Path, count: int = 6, labels: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (5, 7, 3), np.uint8))
        small.resize((70, 50), Image.Resampling.BICUBIC).save(root / f"{number}.png")
    if labels:
        rows = [f"{number}.png,{number % 5}" for number in range(count)]
        (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return root


@pytest.fixture
def data(tmp_path) -> Path:
    return make_pictures(tmp_path / "data")


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), SMALL, numbered(5), "five")


def columns(*arguments, **options) -> dict[str, np.ndarray]:
    return read_results(run(*arguments, **options).folder)[0]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Assert the same rows; probabilities to the rounding of another batch size."""
    assert a.keys() == b.keys()
    for name in a:
        if a[name].dtype.kind == "f":
            np.testing.assert_allclose(a[name], b[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(a[name], b[name])


def test_rows_by_a_slow_twin(data, loaded, tmp_path):
    """One mask and one picture at a time, by the removal operators themselves."""
    removals = ("layermask", "greyout", "segment-mean")
    fractions = (0.0, 0.3, 1.0)
    experiment = SegmentStudy(removals, SEGMENTS, ("random", "salient-first"), fractions, seed=4)
    source = open_source(data)
    found = columns(experiment, loaded, source, tmp_path / "out", batch_size=3)
    rows = iter(range(len(found["image"])))
    for sample in source:
        x = SMALL(sample.load_image())
        for name in removals:
            for segmentation in SEGMENTS:
                labels = segmenter(segmentation)(SMALL.picture(x))
                operator = removal(name, loaded.model, SMALL, labels)
                whole = operator(x, torch.ones(1, 1, 32, 32, dtype=torch.bool)).argmax()
                for order in ("random", "salient-first"):
                    before: set[int] = set()
                    for fraction in fractions:
                        row = {key: values[at] for at in [next(rows)] for key, values in found.items()}
                        count = int(labels.max()) + 1
                        hidden = hidden_segments(experiment, loaded, sample, x, labels, row)
                        assert len(hidden) == int(fraction * count) == row["hidden"]
                        assert before <= hidden, "what is hidden stays hidden"
                        before = hidden
                        visible = ~torch.isin(labels, torch.tensor(sorted(hidden)))[None, None]
                        chances = operator(x, visible).softmax(-1)[0].detach()
                        assert (row["image"], row["removal"]) == (sample.name, name)
                        assert (row["segmentation"], row["order"], row["fraction"]) == (
                            segmentation,
                            order,
                            fraction,
                        )
                        assert (row["label"], row["segments"], row["seed"]) == (sample.label, count, 4)
                        assert row["ranking"] == ("random" if order == "random" else "input gradient")
                        assert row["prediction"] == chances.argmax()
                        assert row["confidence"] == pytest.approx(float(chances.max()), abs=1e-5)
                        assert row["label_confidence"] == pytest.approx(
                            float(chances[sample.label]), abs=1e-5
                        )
                        assert row["unchanged"] == (chances.argmax() == whole)
    assert next(rows, None) is None


def hidden_segments(experiment, loaded, sample, x, labels, row) -> set[int]:
    from layermask.studies.orders import random_order

    if row["order"] == "random":
        order = random_order(row["segments"], sample, row["segmentation"], experiment.seed).tolist()
    else:
        steep = input_gradient(loaded, x)
        sums = [float(steep[labels == segment].sum()) for segment in range(row["segments"])]
        order = sorted(range(len(sums)), key=lambda segment: -sums[segment])
    return set(order[: row["hidden"]])


def test_rows_do_not_depend_on_batches_or_other_pictures(data, loaded, tmp_path):
    experiment = SegmentStudy(("layermask", "blackout"), SEGMENTS, fractions=(0, 0.5, 0.9))
    source = open_source(data)
    whole = columns(experiment, loaded, source, tmp_path / "a", batch_size=32)
    same(whole, columns(experiment, loaded, source, tmp_path / "b", batch_size=1))
    one = dataclasses.replace(source, samples=source.samples[4:5])
    alone = columns(experiment, loaded, one, tmp_path / "c", batch_size=32)
    for name, values in alone.items():  # to the bit: its batches are the same
        np.testing.assert_array_equal(values, whole[name][whole["image"] == "4.png"])


def test_seeds_fix_the_order(data, loaded, tmp_path):
    source = open_source(data)
    make = lambda seed: SegmentStudy(("greyout", "zero"), SEGMENTS[:1], seed=seed)  # noqa: E731
    a, b, c = (columns(make(s), loaded, source, tmp_path / str(n)) for n, s in enumerate((1, 1, 2)))
    same(a, b)
    assert (a["confidence"] != c["confidence"]).any()


def test_orders_are_of_one_picture_and_one_segmentation():
    from layermask.data import Sample
    from layermask.studies.orders import random_order

    samples = [Sample(name, Path(name)) for name in "ab"]
    drawn = [random_order(50, sample, s, 0).tolist() for sample in samples for s in ("grid", "slic")]
    assert all(sorted(each) == list(range(50)) for each in drawn)
    assert len({tuple(each) for each in drawn}) == 4


def test_saliency_maps_come_before_gradients(data, loaded, tmp_path):
    """The right half is salient: it goes first, or last."""
    (data / "saliency").mkdir()
    right = np.broadcast_to(np.where(np.arange(70) < 35, 0, 200).astype(np.uint8), (50, 70)).copy()
    for number in range(6):
        Image.fromarray(right).save(data / "saliency" / f"{number}.png")
    shown: list[torch.Tensor] = []

    def spy(name, loaded, segments):
        def operator(images, visible):
            shown.append(visible)
            return loaded.model(images).expand(len(visible), -1)

        return operator

    experiment = SegmentStudy(("spy",), ("grid:8",), ("salient-first", "salient-last"), (0.5,), operator=spy)
    found = columns(experiment, loaded, open_source(data), tmp_path / "out")
    assert set(found["ranking"]) == {"saliency map"}
    first, last = shown[0][-2:]
    assert first[..., :16].all() and not first[..., 16:].any()
    assert torch.equal(last, ~first)
    (data / "saliency" / "2.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 images .* have no saliency \(2.png\)"):
        run(experiment, loaded, open_source(data), tmp_path / "out2")


def test_without_labels_the_plain_prediction_is_the_label(tmp_path, loaded):
    source = open_source(make_pictures(tmp_path / "data", labels=False))
    store = run(SegmentStudy(("greyout",)), loaded, source, tmp_path / "out")
    found, content = read_results(store.folder)
    for sample in source:
        mine = found["image"] == sample.name
        plain = int(loaded.model(SMALL(sample.load_image())).argmax())
        assert set(found["label"][mine]) == {plain}
    np.testing.assert_array_equal(found["unchanged"], found["label"] == found["prediction"])
    assert any("agreement with the plain model's prediction" in line for line in words(found, content))


def test_each_picture_is_decoded_once(data, loaded, tmp_path, monkeypatch):
    from layermask.data import source as module

    opened: list[str] = []
    load = module.load_image
    monkeypatch.setattr(module, "load_image", lambda path: opened.append(path.name) or load(path))
    experiment = SegmentStudy(("greyout", "zero"), SEGMENTS, ("random", "salient-last"))
    run(experiment, loaded, open_source(data), tmp_path / "out")
    assert opened == [f"{number}.png" for number in range(6)]


def test_no_mask_is_asked_about_twice(data, loaded, tmp_path):
    asked: list[int] = []

    def counting(name, loaded, segments):
        def operator(images, visible):
            asked.append(len(visible))
            assert len({mask.numpy().tobytes() for mask in visible}) == len(visible)
            return loaded.model(images).expand(len(visible), -1)

        return operator

    orders = ("random", "salient-first", "salient-last")
    experiment = SegmentStudy(("a", "b"), ("grid:8",), orders, operator=counting)
    run(experiment, loaded, open_source(data), tmp_path / "out", batch_size=64)
    assert len(asked) == 12 and max(asked) <= 2 + 3 * 9  # all, nothing, and nine for each order


def test_fractions_are_not_rounded_down_twice(data, tmp_path):
    """0.7 of 90 segments are 63, though 0.7 * 90 is 62.99999999999999."""
    loaded = Loaded(five(), Preprocessing((40, 44), (36, 40)), numbered(5), "five")
    found = columns(SegmentStudy(("zero",), ("grid:4",)), loaded, open_source(data), tmp_path / "out")
    assert set(found["segments"]) == {90}
    assert found["hidden"][:11].tolist() == list(range(0, 91, 9))


def test_loading_goes_ahead_and_keeps_errors_in_place():
    begun: list[int] = []

    def load(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item * item

    results = ahead(load, range(6), count=2)
    assert next(results)() == 0
    deadline = time.monotonic() + 5
    while begun != [0, 1, 2] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert begun == [0, 1, 2]  # one is asked for, two are ahead
    assert next(results)() == 1
    with pytest.raises(ValueError, match="two"):
        next(results)()
    assert [get() for get in results] == [9, 16, 25]


FRACTIONS = (0.0, 0.9, 0.4)  # in any order
BY_HAND = SegmentStudy(("greyout", "zero"), ("grid:8",), ("random", "salient-first"), FRACTIONS)


@pytest.mark.parametrize("rule", ["mean", "trapezoid"])
def test_the_summary_by_hand(rule, data, loaded, tmp_path):
    found, content = read_results(run(BY_HAND, loaded, open_source(data), tmp_path / "out").folder)
    areas, differences, points = summarise(found, content, rule)
    assert [row[:4] for row in areas.rows] == [
        (removal, "grid:8", order, {"random": "random"}.get(order, "input gradient"))
        for removal in ("greyout", "zero")
        for order in ("random", "salient-first")
    ]
    assert list(areas.header[4:]) == ["accuracy", "entropy", "unchanged"]
    point = iter(points.rows)
    for row in areas.rows:
        mine = (found["removal"] == row[0]) & (found["order"] == row[2])
        right, entropy, unchanged = [], [], []
        for fraction in sorted(FRACTIONS):
            at = mine & (found["fraction"] == fraction)
            right.append(np.mean(found["prediction"][at] == found["label"][at]))
            shares = np.unique(found["prediction"][at], return_counts=True)[1] / 6
            entropy.append(-np.sum(shares * np.log(shares + 1e-7)))
            unchanged.append(np.mean(found["unchanged"][at]))
            *names, images, told, one, two, three = next(point)
            assert (tuple(names), images, told) == (row[:4], 6, f"{fraction:g}")
            assert (one.value, two.value, three.value) == pytest.approx(
                (right[-1], entropy[-1], unchanged[-1])
            )
        for values, cell in zip((right, entropy, unchanged), row[4:], strict=True):
            x = np.array(sorted(FRACTIONS))
            middles = (np.array(values[1:]) + values[:-1]) / 2
            expected = np.mean(values) if rule == "mean" else (middles * np.diff(x)).sum() / (x[-1] - x[0])
            assert cell.value == pytest.approx(expected)
            assert cell.low <= cell.value <= cell.high
    assert next(point, None) is None
    for row in differences.rows:
        zero, grey = ({r[2]: r for r in areas.rows if r[0] == name}[row[2]] for name in ("zero", "greyout"))
        assert row[:4] == ("zero - greyout", *zero[1:4])
        for a, b, cell in zip(zero[4:], grey[4:], row[4:], strict=True):
            assert cell.value == pytest.approx(a.value - b.value, abs=1e-12)
    assert any("plain model's input gradient" in line for line in words(found, content))


def test_the_printed_table(data, loaded, tmp_path):
    found, content = read_results(run(BY_HAND, loaded, open_source(data), tmp_path / "out").folder)
    table = summarise(found, content)[0]
    *lines, nothing, directions = table.as_markdown().splitlines()
    assert lines[0].startswith("| removal | segmentation | order ")
    assert len({len(line) for line in lines}) == 1 and nothing == ""
    assert directions == "Higher is better: accuracy, entropy, unchanged."
    one = table.rows[0][4]
    assert f" {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] " in lines[2]
    head, first, *_ = table.as_csv().splitlines()
    assert head.startswith("removal,segmentation,order,ranking,accuracy,accuracy low,accuracy high,entropy,")
    assert first.startswith(f"greyout,grid:8,random,random,{one.value:.6f},{one.low:.6f},{one.high:.6f},")


def test_differences_are_paired(data, loaded, tmp_path):
    """Two removals that are the same differ by nothing on every resample, though their areas vary."""
    twice = SegmentStudy(
        ("one", "two"),
        ("grid:8",),
        operator=lambda name, loaded, segments: removal("zero", loaded.model, SMALL),
    )
    found, content = read_results(run(twice, loaded, open_source(data), tmp_path / "out").folder)
    areas, differences, _ = summarise(found, content)
    assert all(cell.low < cell.high for cell in areas.rows[0][4:])
    assert all(cell == pytest.approx((0, 0, 0), abs=1e-12) for cell in differences.rows[0][4:])


def test_unchanged_needs_no_fraction_0(data, loaded, tmp_path):
    experiment = dataclasses.replace(BY_HAND, fractions=(0.9, 0.4))
    found, content = read_results(run(experiment, loaded, open_source(data), tmp_path / "out").folder)
    for row in summarise(found, content)[0].rows:
        mine = (found["removal"] == row[0]) & (found["order"] == row[2])
        assert row[-1].value == pytest.approx(np.mean(found["unchanged"][mine]))


def test_wordnet_similarity_is_for_the_classes_of_imagenet():
    from layermask.metrics.wordnet import imagenet_hierarchy, wu_palmer_matrix

    tree = imagenet_hierarchy()
    imagenet = [tree.words[each].replace("_", " ") for each in tree.classes]
    settings = {"removals": ["a"], "saliency": "not used", "labels": "of the data"}
    content = {"classes": imagenet, "settings": settings}
    rows = {"removal": "a", "segmentation": "grid", "order": "random", "ranking": "random", "unchanged": True}
    found = {name: np.array([value] * 4) for name, value in rows.items()}
    found |= {"fraction": np.array([0, 1.0] * 2), "label": np.array([3, 3, 8, 8])}
    found |= {"image": np.array(["one", "one", "two", "two"]), "confidence": np.full(4, 0.5)}
    found["prediction"] = np.array([3, 8, 8, 900])
    table = summarise(found, content)[0]
    near = wu_palmer_matrix()[[3, 8, 8, 900], [3, 3, 8, 8]].mean()
    assert dict(zip(table.header, table.rows[0], strict=True))["wordnet"].value == pytest.approx(float(near))
    others = (imagenet[1:], imagenet[:500] + imagenet[500:][::-1], list(numbered(1000)), [])
    for names in others:
        header = summarise(found, content | {"classes": names})[0].header
        assert "wordnet" not in header
        lines = words(
            found,
            content
            | {
                "classes": names,
                "images": 2,
                "skipped": [],
                "settings": settings | {"data": {"name": "x"}, "model": {"name": "y"}},
            },
        )
        assert any("WordNet similarity is left out" in line for line in lines)
    french = [f"{name}, nom" for name in imagenet[:950]] + ["?"] * 50
    assert "wordnet" in summarise(found, content | {"classes": french})[0].header


BAD = {
    "no removals": (dict(removals=()), "removals are none: give some"),
    "twice": (dict(segmentations=("grid", "grid")), "segmentations are grid, grid: give some, each once"),
    "order": (dict(orders=("salient",)), "unknown order 'salient': choose from random, salient-first"),
    "fractions": (dict(fractions=(0.5, 2)), "give a number from 0 to 1"),
    "removal": (dict(removals=("grayout",)), "unknown removal 'grayout'.*nearest: greyout"),
    "segments": (dict(segmentations=("slick",)), "unknown segments 'slick'"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_make_no_experiment(case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        SegmentStudy(**options)


def test_labels_beyond_the_model(data, loaded, tmp_path):
    table = (data / "labels.csv").read_text().replace("3.png,3", "3.png,7")
    (data / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=r"image 3.png has label 7 and five has 5 classes \(1 such images\)"):
        run(SegmentStudy(), loaded, open_source(data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_finite(data, loaded, tmp_path):
    broken = dataclasses.replace(loaded, model=nn.Sequential(five(), nn.Hardtanh(), _Nan()).eval())
    with pytest.raises(
        ModelError, match=r"image 0.png: the model's scores are not finite for \d+ of \d+ masks"
    ):
        run(SegmentStudy(("greyout",)), broken, open_source(data), tmp_path / "out")


class _Nan(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_a_model_without_a_gradient_has_no_salient_order(data, tmp_path):
    class Hard(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot((x.mean((1, 2, 3)) > 0).long(), 5).float()

    loaded = Loaded(Hard(), SMALL, numbered(5), "hard")
    experiment = SegmentStudy(("greyout",), orders=("salient-first",))
    with pytest.raises(InputError, match=r"hard has no gradient: .*, or give the data saliency maps"):
        run(experiment, loaded, open_source(data), tmp_path / "out")


def test_settings_are_all_that_rows_depend_on(data, loaded, tmp_path):
    store = run(SegmentStudy(("greyout",), SEGMENTS), loaded, open_source(data), tmp_path / "out")
    settings = json.loads((store.folder / "settings.json").read_text())
    assert settings == store.settings == read_results(store.folder)[1]["settings"]
    assert settings["segmentations"]["slic:n_segments=9"] == repr(segmenter("slic:n_segments=9"))
    assert {"layermask", "torch"} <= set(settings["versions"])
    assert settings["model"]["preprocessing"]["crop"] == [32, 32]
    assert settings["data"] == {
        "name": "folder:data",
        "images": 6,
        "digest": open_source(data).digest(),
    }
    assert str(tmp_path) not in json.dumps(settings)
