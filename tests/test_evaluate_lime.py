"""LIME judged by object masks, over many pictures: the rows by a slow twin, and what is made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sheets import readable_texts
from sklearn.linear_model import Ridge
from test_evaluate import SMALL, columns, five, make_pictures, same

from layermask.data import open_source
from layermask.errors import InputError, ModelError
from layermask.explain.lime import Lime
from layermask.removal.registry import removal
from layermask.segment.presets import segmenter
from layermask.studies import LimeStudy, read_results, run
from layermask.studies.lime.figure import sheet
from layermask.studies.lime.report import summarise, words
from layermask.studies.lime.study import LEFT_OUT
from layermask.studies.orders import own_seed
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded

SEGMENTS = ("grid:8", "slic:n_segments=9")
SETTINGS = dict(segmentations=SEGMENTS, n_samples=64, k=3, among=5)


def with_masks(data: Path, count: int = 6) -> Path:
    """Give each picture of 70×50 an object, a box that moves to the right."""
    (data / "masks").mkdir()
    for number in range(count):
        mask = np.zeros((50, 70), np.uint8)
        mask[8:33, 12 + 4 * number : 32 + 4 * number] = 255
        Image.fromarray(mask).save(data / "masks" / f"{number}.png")
    return data


@pytest.fixture
def data(tmp_path) -> Path:
    return with_masks(make_pictures(tmp_path / "data"))


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), SMALL, numbered(5), "five")


def test_rows_by_a_slow_twin(data, loaded, tmp_path):
    """One mask at a time, scikit-learn's ridge, sets of pixels: all from the definitions."""
    removals = ("layermask", "greyout", "segment-mean")
    experiment = LimeStudy(removals, ablation="blackout", seed=4, **SETTINGS)
    source = open_source(data).pick(3)
    found = columns(experiment, loaded, source, tmp_path / "out", batch_size=7)
    rows = iter(range(len(found["image"])))
    for sample in source:
        x = SMALL(sample.load_image())
        object_ = SMALL.mask(sample.load_mask())[0, 0]
        plain = loaded.model(x)[0]
        for segmentation in SEGMENTS:
            labels = segmenter(segmentation)(SMALL.picture(x))
            for name in removals:
                operator = removal(name, loaded.model, SMALL, labels)
                scores, r2 = slow_lime(
                    operator, x, labels, sample.label, own_seed(sample, segmentation, 4), 64
                )
                best = np.argsort(-scores, kind="stable")[:3]
                inside = torch.isin(labels, torch.tensor(best))
                dark = removal("blackout", loaded.model, SMALL)
                row = {key: values[at] for at in [next(rows)] for key, values in found.items()}
                assert (row["image"], row["segmentation"]) == (sample.name, segmentation)
                assert (row["removal"], row["segments"]) == (name, len(scores))
                assert (row["label"], row["target"], row["seed"]) == (sample.label, sample.label, 4)
                assert row["rank"] == sorted(plain.tolist(), reverse=True).index(plain[sample.label]) + 1
                assert row["object"] == pytest.approx(float(object_.double().mean()))
                assert row["left_out"] == ""
                assert row["alignment"] == pytest.approx(slow_alignment(scores, labels, object_), abs=1e-4)
                both, either = (inside & object_).sum(), (inside | object_).sum()
                assert row["jaccard"] == pytest.approx(float(both / either))
                assert row["ablated"] == int(dark(x, ~inside[None, None]).argmax())
                assert row["right"] == (row["ablated"] == sample.label)
                assert row["r2"] == pytest.approx(r2, abs=1e-4)
    assert next(rows, None) is None


def slow_lime(operator, x, labels, target: int, seed: int, samples: int) -> tuple[np.ndarray, float]:
    rows = Lime(operator, n_samples=samples, seed=seed).rows(int(labels.max()) + 1).numpy()
    answers, weights = [], []
    for row in rows:
        visible = torch.from_numpy(row)[labels][None, None]
        with torch.no_grad():
            answers.append(float(operator(x, visible)[0].softmax(0)[target]))
        cosine = row.sum() / (np.sqrt(row.sum()) * np.sqrt(len(row))) if row.any() else 0.0
        weights.append(np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2)))
    model = Ridge(alpha=1.0).fit(rows, answers, sample_weight=weights)
    return model.coef_, float(model.score(rows, answers, sample_weight=weights))


def slow_alignment(scores: np.ndarray, labels, object_) -> float:
    excess = object_.double().numpy() - float(object_.double().mean())
    sums = np.array([excess[labels.numpy() == segment].sum() for segment in range(len(scores))])
    return float(scores @ sums / (np.linalg.norm(scores) * np.linalg.norm(sums)))


def test_rows_do_not_depend_on_batches_or_other_pictures(data, loaded, tmp_path):
    experiment, source = LimeStudy(("layermask", "greyout"), **SETTINGS), open_source(data)
    whole = columns(experiment, loaded, source, tmp_path / "a", batch_size=32)
    same(whole, columns(experiment, loaded, source, tmp_path / "b", batch_size=5))
    one = dataclasses.replace(source, samples=source.samples[4:5])
    alone = columns(experiment, loaded, one, tmp_path / "c", batch_size=32)
    for name, values in alone.items():
        np.testing.assert_array_equal(values, whole[name][whole["image"] == "4.png"])


def test_all_removals_are_asked_about_the_same_masks(data, loaded, tmp_path):
    asked: dict[str, list[torch.Tensor]] = {"a": [], "b": [], "c": []}

    def spy(name, loaded, segments):
        def operator(images, visible):
            asked[name].append(visible)
            return loaded.model(images).expand(len(visible), -1)

        return operator

    experiment = LimeStudy(("a", "b"), operator=spy, **{**SETTINGS, "ablation": "c"})
    run(experiment, loaded, open_source(data), tmp_path / "out")
    masks = {name: torch.cat(each) for name, each in asked.items()}
    assert torch.equal(masks["a"], masks["b"]) and len(masks["a"]) == 6 * 2 * 65  # the whole, and 64
    assert len({mask.numpy().tobytes() for mask in masks["a"]}) > 6 * 60  # each picture has its own
    assert len(masks["c"]) == 6 * 2 * 2
    on_the_grid = masks["c"].unflatten(0, (6, 2, 2))[:, 0]
    assert set((~on_the_grid).sum((-1, -2)).flatten().tolist()) == {3 * 8 * 8}  # the top 3 are gone


def test_the_seed_fixes_the_masks(data, loaded, tmp_path):
    source = open_source(data)
    make = lambda seed: LimeStudy(("greyout",), seed=seed, **SETTINGS)  # noqa: E731
    a, b, c = (columns(make(s), loaded, source, tmp_path / str(n)) for n, s in enumerate((1, 1, 2)))
    same(a, b)
    assert (a["r2"] != c["r2"]).all()


def test_pictures_that_do_not_count_say_why(data, loaded, tmp_path):
    """Their numbers are null, and nothing is asked for them."""
    source, asked = open_source(data), []
    ranks = [
        1 + int((s > s[each.label]).sum()) for each in source for s in loaded.model(SMALL(each.load_image()))
    ]
    empty = next(source[number].name for number, rank in enumerate(ranks) if rank <= 3)
    Image.new("L", (70, 50)).save(data / "masks" / empty)

    def counting(name, loaded, segments):
        def operator(images, visible):
            asked.append(len(visible))
            return loaded.model(images).expand(len(visible), -1)

        return operator

    experiment = LimeStudy(
        ("a", "b"),
        segmentations=("grid:8", "grid:32"),
        n_samples=64,
        among=3,
        ablation="c",
        operator=counting,
    )
    found, content = read_results(run(experiment, loaded, open_source(data), tmp_path / "out").folder)
    kept = found["left_out"] == ""
    for at, reason in enumerate(found["left_out"]):
        want = "" if found["segmentation"][at] == "grid:8" else "one segment"
        want = "no object" if found["image"][at] == empty else want
        assert reason == ("label unlikely" if found["rank"][at] > 3 else want)
    assert {"", *LEFT_OUT} == set(found["left_out"])
    assert found["rank"][::4].tolist() == ranks and sum(asked) == kept.sum() * (65 + 1)
    for name in ("alignment", "jaccard", "ablated", "r2"):
        np.testing.assert_array_equal(np.isnan(found[name].astype(float)), ~kept)
    assert {None} == set(found["right"][~kept])
    said = "\n".join(words(found, content))
    for reason, meaning in LEFT_OUT.items():
        count = int((found["left_out"] == reason).sum()) // 2
        assert f"{count} of 12 pairs of image and segmentation are left out: {meaning}" in said
    table = summarise(found, content)[0]
    assert [row[2] for row in table.rows] == [int(kept.sum()) // 2] * 2 + [0, 0]
    assert all(np.isnan(row[3].value) for row in table.rows[2:])
    readable_texts(sheet(found, content))


def test_without_labels_the_prediction_is_explained(tmp_path, loaded):
    source = open_source(with_masks(make_pictures(tmp_path / "data", labels=False)))
    found, content = read_results(
        run(LimeStudy(("zero",), **SETTINGS), loaded, source, tmp_path / "o").folder
    )
    for sample in source:
        mine = found["image"] == sample.name
        assert set(found["target"][mine]) == {int(loaded.model(SMALL(sample.load_image())).argmax())}
    assert set(found["rank"]) == {1} and (found["label"] == found["target"]).all()
    said = words(found, content)
    assert any(line.startswith("LIME explains the plain model's prediction from 64 masks") for line in said)
    assert any(
        "accuracy without the top segments is agreement with the plain model's" in line for line in said
    )


def test_the_prediction_may_be_explained_instead(data, loaded, tmp_path):
    experiment = LimeStudy(("zero",), explain="prediction", **SETTINGS)
    found, content = read_results(run(experiment, loaded, open_source(data), tmp_path / "o").folder)
    assert ((found["target"] == found["label"]) == (found["rank"] == 1)).all()
    assert (found["target"] != found["label"]).any()
    assert (found["right"] == (found["ablated"] == found["label"])).all()
    assert "LIME explains the plain model's prediction" in "\n".join(words(found, content))


@pytest.fixture
def results(data, loaded, tmp_path):
    experiment = LimeStudy(("layermask", "greyout", "zero"), **SETTINGS)
    return read_results(run(experiment, loaded, open_source(data), tmp_path / "out").folder)


def test_the_tables_by_hand(results):
    found, content = results
    means, differences, paper = summarise(found, content)
    values = {}
    for segmentation in SEGMENTS:
        for name in ("layermask", "greyout", "zero"):
            mine = (found["segmentation"] == segmentation) & (found["removal"] == name)
            kinds = (found[kind][mine].astype(float) for kind in ("right", "alignment", "jaccard"))
            values[segmentation, name] = np.stack(list(kinds), 1)
    assert [row[:3] for row in means.rows] == [(*key, 6) for key in values]
    for row, want in zip(means.rows, values.values(), strict=True):
        np.testing.assert_allclose([each.value for each in row[3:]], want.mean(0))
        assert all(each.low <= each.value <= each.high for each in row[3:])
        assert row[4].low < row[4].value < row[4].high
    pairs = [(s, name) for s in SEGMENTS for name in ("greyout", "zero")]
    for row, (segmentation, name) in zip(differences.rows, pairs, strict=True):
        assert row[:2] == (segmentation, f"{name} - layermask")
        gains = values[segmentation, name] - values[segmentation, "layermask"]
        np.testing.assert_allclose([each.value for each in row[2:]], gains.mean(0), atol=1e-12)
        assert gains[:, 1].min() <= row[3].low <= row[3].high <= gains[:, 1].max()  # of pairs
    titles = [f"{name} {s}" for name in ("ablation", "alignment", "jaccard") for s in SEGMENTS]
    assert paper.header == ("removal", *titles)
    for row in paper.rows:
        want = [values[s, row[0]].mean(0)[kind] for kind in range(3) for s in SEGMENTS]
        np.testing.assert_allclose(row[1:], want)
    assert (means.better["ablation"], means.better["alignment"], means.better["jaccard"]) == (
        False,
        True,
        True,
    )
    assert "Lower is better: ablation." in differences.as_markdown()


def test_one_removal_has_no_differences(data, loaded, tmp_path):
    found = read_results(
        run(LimeStudy(("zero",), **SETTINGS), loaded, open_source(data), tmp_path / "o").folder
    )
    assert [table.name for table in summarise(*found)] == ["means", "table2"]


def test_too_few_masks_are_said_once(data, loaded, tmp_path):
    """And not warned of for every picture: warnings are errors here."""
    experiment = LimeStudy(("zero",), segmentations=("grid:4", "grid:16"), n_samples=20)
    found = read_results(run(experiment, loaded, open_source(data), tmp_path / "o").folder)
    counted = int(((found[0]["left_out"] == "") & (found[0]["segments"] == 64)).sum())
    assert words(*found)[-1] == (
        f"{counted} of 12 explanations have fewer than 2 masks per segment (20 masks for up to 64 segments): "
        "their scores are noisy."
    )


def test_the_figure_can_be_read(results):
    figure = sheet(*results)
    texts = [text for text, _ in readable_texts(figure)]
    assert texts.count("layermask") == 2 and texts.count("alignment (higher)") == 2
    assert [text for text in texts if text in SEGMENTS] == list(SEGMENTS)
    bars = [axes for axes in figure.axes if axes.patches]
    assert len(bars) == 2 * 3 and all(len(axes.patches) == 3 for axes in bars)
    assert [axes.get_xlim() for axes in bars[:3]] == [axes.get_xlim() for axes in bars[3:]]


BAD = {
    "samples": (dict(n_samples=0), "n_samples is 0: give 1 or more"),
    "k": (dict(k=0), "k is 0: give 1 or more"),
    "among": (dict(among=0), "among is 0"),
    "explain": (dict(explain="top"), "explain is 'top': choose label or prediction"),
    "ablation": (dict(ablation="gray"), "unknown removal 'gray'"),
    "segments": (dict(segmentations=("slick",)), "unknown segments 'slick'"),
    "twice": (dict(segmentations=("grid", "grid")), "segmentations are grid, grid: give some, each once"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_make_no_experiment(case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        LimeStudy(**options)


def test_pictures_without_masks(tmp_path, loaded):
    source = open_source(make_pictures(tmp_path / "data"))
    with pytest.raises(InputError, match=r"6 of 6 images of .* have no mask"):
        run(LimeStudy(("zero",)), loaded, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_finite_name_the_picture(data, loaded, tmp_path):
    def broken(name, loaded, segments):
        return lambda images, visible: loaded.model(images).expand(len(visible), -1) / visible.all().float()

    experiment = LimeStudy(("broken",), operator=broken, **SETTINGS)
    with pytest.raises(
        InputError, match=r"image 0.png: the model's scores are not finite for \d+ of \d+ masks"
    ):
        run(experiment, loaded, open_source(data), tmp_path / "a")
    model = torch.nn.Sequential(five(), torch.nn.Threshold(100, float("nan"))).eval()
    with pytest.raises(ModelError, match=r"image 0.png: the model's scores are not finite for 1 of 1 masks"):
        run(LimeStudy(), dataclasses.replace(loaded, model=model), open_source(data), tmp_path / "b")
