"""Mask shape over many pictures: rows and summary by slow twins, what is left out, the figure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sheets import readable_texts
from test_evaluate import five
from test_evaluate_table import make_data

from layermask.data import open_source
from layermask.errors import InputError
from layermask.metrics.shape_bias import measure_shape_bias
from layermask.removal.registry import removal
from layermask.studies import ShapeBiasStudy, read_results, run
from layermask.studies.prepared import object_mask
from layermask.studies.shape_bias.figure import sheet
from layermask.studies.shape_bias.report import summarise, words
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

SMALL = Preprocessing((36, 36), (32, 32))
REMOVALS = ("layermask", "greyout", "mean")


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), SMALL, numbered(5), "five")


@pytest.fixture
def data(tmp_path, loaded) -> Path:
    """Eight pictures; the plain model is right in all but two."""
    root = make_data(tmp_path / "data", 8, labels=False)
    top = [int(loaded.model(SMALL(s.load_image())).argmax()) for s in open_source(root)]
    labels = [(each + (number in (2, 5))) % 5 for number, each in enumerate(top)]
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return root


@pytest.fixture
def results(data, loaded, tmp_path):
    return read_results(run(ShapeBiasStudy(REMOVALS), loaded, open_source(data), tmp_path / "out").folder)


def seen(sample) -> torch.Tensor:
    """Return the object (32, 32) by Pillow alone: resized and cropped, nearest neighbour."""
    mask = sample.load_mask()
    width, height = int(36 * mask.width / mask.height), 36
    mask = mask.resize((width, height), Image.Resampling.NEAREST)
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    return torch.from_numpy(np.asarray(mask.crop((left, top, left + 32, top + 32))) == 255)


def test_rows_by_a_slow_twin(data, loaded, results):
    """Masks quarter by quarter, as the paper's Figure 5 has it: each goes to the opposite corner."""
    found, _ = results
    rows = iter(range(len(found["image"])))
    for sample in open_source(data):
        x, mask = SMALL(sample.load_image()), seen(sample)
        broken = torch.zeros_like(mask)
        for top, left in ((0, 0), (0, 16), (16, 0), (16, 16)):
            quarter = mask[top : top + 16, left : left + 16]
            broken[16 - top : 32 - top, 16 - left : 32 - left] = quarter
        for name in REMOVALS:
            at = next(rows)
            operator = removal(name, loaded.model, SMALL)
            assert (found["image"][at], found["removal"][at]) == (sample.name, name)
            assert (found["label"][at], found["object"][at]) == (sample.label, float(mask.double().mean()))
            for part, hole in (("whole", torch.zeros_like(mask)), ("hidden", mask), ("broken", broken)):
                chances = operator(x, ~hole[None, None]).softmax(-1)[0].detach()
                assert found[part][at] == chances.argmax()
                assert found[f"{part}_confidence"][at] == pytest.approx(
                    float(chances[sample.label]), abs=1e-6
                )
    assert next(rows, None) is None


def test_the_summary_is_that_of_the_metric(data, loaded, results):
    table = summarise(*results)[0]
    source = open_source(data)
    images = torch.cat([SMALL(sample.load_image()) for sample in source])
    objects = torch.stack([seen(sample)[None] for sample in source])
    labels = torch.tensor([sample.label for sample in source])
    for row, name in zip(table.rows, REMOVALS, strict=True):
        bias = measure_shape_bias(removal(name, loaded.model, SMALL), images, objects, labels)
        assert row[:2] == (name, 6)
        assert [cell.value for cell in row[2:]] == pytest.approx(bias.accuracy())
        _, low, high = bias.interval()
        assert [cell.low for cell in row[2:]] == pytest.approx(low.tolist())
        assert [cell.high for cell in row[2:]] == pytest.approx(high.tolist())
    assert table.better == {"object hidden": False, "broken mask": True, "difference": True}


def test_classes_are_counted_by_hits(results):
    found, content = results
    right = (found["removal"] == "greyout") & (found["whole"] == found["label"])
    counts = np.bincount(found["label"][right], minlength=5)
    for hits in (0, 1, 2):
        rows = summarise(found, content, hits)[1].rows
        assert {row[0] for row in rows} == {f"class {n}" for n in np.flatnonzero(counts > hits)}
        for name, _, count, hidden, broken, difference in rows:
            mine = counts[int(name.split()[1])]
            assert count == mine and broken - hidden == pytest.approx(difference)
    assert summarise(found, content)[1].as_markdown() == "None."


def made(**classes: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict]:
    """Return results of 12 images per class: so many right, hidden and broken, by removal a, b."""
    rows = []
    for number, (name, counts) in enumerate(classes.items()):
        for removal_, (hidden, broken) in zip("ab", counts, strict=True):
            for image in range(12):
                parts = {"hidden": image < hidden, "broken": image < broken}
                rows.append(
                    {"image": f"{name}{image}", "removal": removal_, "object": 0.5, "label": number}
                    | {"whole": number}
                    | {part: number if right else 99 for part, right in parts.items()}
                )
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    settings = {
        "removals": ["a", "b"],
        "labels": "of the data",
        "data": {"name": "d"},
        "model": {"name": "m"},
    }
    return columns, {"settings": settings, "images": 1, "skipped": [], "classes": [*classes]}


def test_the_figure_has_the_paper_s_layout():
    """The average first, then classes by how much more the first removal's difference is than the other's."""
    middle = {f"class number {n}": ((3, 6), (3, 6)) for n in range(12)}
    columns, content = made(low=((6, 2), (0, 12)), **middle, high=((0, 12), (6, 6)))
    figure = sheet(columns, content)
    texts = [text for text, _ in readable_texts(figure)]
    names = [each.get_text() for each in figure.axes[0].get_xticklabels()]
    assert names[:2] == ["Average", "high"] and names[-1] == "low" and len(names) == 11
    assert "+1.00" in texts and "−0.33" in texts
    bars = [each.get_height() for each in figure.axes[0].patches if each.get_height()]
    average = [
        sum(c[k][part] for c in [*middle.values(), ((6, 2), (0, 12)), ((0, 12), (6, 6))]) / 168
        for k in (0, 1)
        for part in (1, 0)
    ]
    assert bars[:4] == pytest.approx(average)
    few = readable_texts(sheet(columns, content, 12))
    assert any("No class has more than 12 images" in text for text, _ in few)


def test_without_labels_it_is_agreement(data, loaded, tmp_path):
    (data / "labels.csv").unlink()
    found, content = read_results(run(ShapeBiasStudy(), loaded, open_source(data), tmp_path / "out").folder)
    np.testing.assert_array_equal(found["label"], found["whole"])
    tables = summarise(found, content)
    assert [table.name for table in tables] == ["accuracies"] and tables[0].rows[0][1] == 8
    agreement = "accuracy is agreement with the plain model's prediction"
    assert any(agreement in line for line in words(found, content))
    figure = sheet(found, content)
    assert any(agreement in text for text, _ in readable_texts(figure))
    assert [each.get_text() for each in figure.axes[0].get_xticklabels()] == ["Average"]


def test_objects_that_are_nothing_or_everything_are_left_out_and_counted(data, loaded, tmp_path):
    mask = np.zeros((80, 90), np.uint8)
    Image.fromarray(mask).save(data / "masks" / "0.png")
    mask[:, :2] = 255  # cropped away
    Image.fromarray(mask).save(data / "masks" / "1.png")
    Image.fromarray(np.full((80, 90), 255, np.uint8)).save(data / "masks" / "3.png")
    found, content = read_results(
        run(ShapeBiasStudy(REMOVALS), loaded, open_source(data), tmp_path / "out").folder
    )
    assert sorted(set(found["object"][found["image"] < "2"])) == [0.0] and len(found["image"]) == 24
    assert [row[1] for row in summarise(found, content)[0].rows] == [3, 3, 3]
    lines = words(found, content)
    assert "2 images are left out: no part of the object is in what the model sees." in lines
    assert "1 images are left out: the object is all that the model sees." in lines


def test_what_a_crop_pads_is_no_object(data):
    wide = Loaded(five(), Preprocessing((16, 16), (32, 32)), numbered(5), "five")
    sample = open_source(data)[0]
    Image.fromarray(np.full((80, 90), 255, np.uint8)).save(data / "masks" / "0.png")
    mask = object_mask(sample, (90, 80), wide)
    assert mask.sum() == 16 * 18 and not mask[0].any() and not mask[:, 0].any()


def test_none_right_is_said(data, loaded, tmp_path):
    source = open_source(data)
    wrong = [
        dataclasses.replace(s, label=(int(loaded.model(SMALL(s.load_image())).argmax()) + 1) % 5)
        for s in source
    ]
    source = dataclasses.replace(source, samples=tuple(wrong))
    found, content = read_results(run(ShapeBiasStudy(), loaded, source, tmp_path / "out").folder)
    assert "| layermask | 0      | - " in summarise(found, content)[0].as_markdown()
    assert any("There are no such images: check that the labels" in line for line in words(found, content))
    readable_texts(sheet(found, content))


def test_removals_that_paint_segments_have_none_here():
    with pytest.raises(InputError, match="'segment-mean' paints segments, and here objects are hidden"):
        ShapeBiasStudy(("greyout", "segment-mean"))
