"""`Attribution` in Python and in notebooks: its text, files, tables, pictures, and what may be noise."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sheets
import torch
from PIL import Image

from layermask import Attribution, Lime
from layermask.errors import InputError
from layermask.explain.saved import NamedTarget
from layermask.explain.sheet import explanation_sheet
from layermask.io.pixels import DETRACTS, PALE, SUPPORTS
from layermask.removal.targets import Region, target_name
from layermask.segment.segmenters import Grid

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def attribution(**changes: object) -> Attribution:
    torch.manual_seed(0)
    scores = torch.randn(2, 6, dtype=torch.double) / 3
    return dataclasses.replace(
        Attribution(
            scores,
            Grid(16)(PICTURE),
            (285, 282),
            torch.tensor([0.9, 0.1], dtype=torch.double),
            "lime",
            100,
            stderr=torch.full_like(scores, 0.1),
            r2=torch.tensor([0.951, 0.92], dtype=torch.double),
            settings={"n_samples": 100, "alpha": (0.5, math.inf)},
        ),
        **changes,
    )


def same(one: Attribution, other: Attribution) -> None:
    for field in dataclasses.fields(Attribution):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7)), field.name
        elif field.name != "settings":
            assert a == b, field.name


def test_it_prints_itself_in_one_line() -> None:
    text = repr(attribution())
    assert text == "Attribution(lime, 2 targets: class 285, class 282, 6 segments, R² 0.95 0.92)"
    assert "R²" not in repr(attribution(r2=None))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    scores = attribution().scores.clone()
    scores[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    regions = torch.arange(12).reshape(2, 6) % 2 == 0
    segments = Grid(16)(PICTURE).clone()
    segments[:4] = -1
    one = attribution(scores=scores, region=regions, segments=segments, stderr=scores / 3)
    one.save(tmp_path / "one.json")
    other = Attribution.load(tmp_path / "one.json")
    same(one, other)
    assert torch.equal(other.scores.isinf(), scores.isinf()) and torch.equal(other.scores > 0, scores > 0)
    assert other.settings == {"n_samples": 100, "alpha": [0.5, "inf"]}
    text = (tmp_path / "one.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_volumes_are_saved_too(tmp_path: Path) -> None:
    one = attribution(segments=Grid(2).labels((4, 2, 6)))
    one.save(tmp_path / "one.json")
    same(one, Attribution.load(tmp_path / "one.json"))


def test_other_targets_are_saved_by_their_names(tmp_path: Path) -> None:
    region = Region(3, torch.ones(32, 48, dtype=torch.bool))

    def brightness(answer: object) -> torch.Tensor:
        raise NotImplementedError

    attribution(targets=(region, brightness)).save(tmp_path / "one.json")
    found = Attribution.load(tmp_path / "one.json")
    assert [target_name(each) for each in found.targets] == [target_name(region), "brightness"]
    explainer = Lime(lambda images, visible: images.mean((2, 3)), n_samples=20)
    with pytest.raises(InputError, match="a file has kept the name alone: give the target again"):
        explainer.attribute(torch.rand(1, 3, 32, 48), found.targets[1], Grid(16)(PICTURE))
    assert isinstance(found.targets[0], NamedTarget)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no attribution"),
        ("{}", "holds no attribution: 'format'"),
        ('{"format": 9}', "its format is 9, and 1 is known here"),
        ("{", "cannot be read"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_attribution_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "one.json").write_text(text)
    with pytest.raises(InputError, match=words):
        Attribution.load(tmp_path / "one.json")


@pytest.mark.parametrize("name", ["scores", "segments", "targets", "prediction", "stderr"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    attribution().save(tmp_path / "one.json")
    record = json.loads((tmp_path / "one.json").read_text())
    for damage in ("x", [[1]], {"runs": [[0, 3]], "shape": [2]}):
        (tmp_path / "one.json").write_text(json.dumps(record | {name: damage}))
        with pytest.raises(InputError):
            Attribution.load(tmp_path / "one.json")


def test_a_table_has_a_row_for_each_segment() -> None:
    one = attribution()
    table = one.to_pandas()
    assert list(table.columns) == ["target", "segment", "pixels", "score", "stderr", "noise"]
    assert len(table) == 12 and set(table["pixels"]) == {256}
    row = table[(table["target"] == 282) & (table["segment"] == 4)].iloc[0]
    assert row["score"] == float(one.scores[1, 4]) and row["noise"] == bool(one.noise()[1, 4])
    assert "stderr" not in attribution(stderr=None).to_pandas()


def test_it_goes_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = attribution(), []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device: seen.append(device) or x.clone())
    moved = one.to("cuda:3")
    assert seen == ["cuda:3"] * 5
    same(moved, one)


def test_scores_within_their_interval_are_noise() -> None:
    scores = torch.tensor([[0.19, 0.2, -0.19, -0.2, 0.0, 1.0]], dtype=torch.double)
    one = attribution(
        scores=scores,
        stderr=torch.full_like(scores, 0.1),
        targets=(1,),
        prediction=torch.ones(1),
        r2=None,
    )
    assert one.noise().tolist() == [[True, False, True, False, True, False]]
    assert one.noise(0.99).tolist() == [[True, True, True, True, True, False]]
    torch.testing.assert_close(one.shades()[0, :2], torch.tensor([0.19 * PALE, 0.2], dtype=torch.double))
    assert not dataclasses.replace(one, stderr=None).noise().any()


def test_the_colours_differ_for_the_colour_blind() -> None:
    """In blue against yellow, which red-green blindness keeps, and in lightness."""
    (_, _, blue), (red, _, other) = SUPPORTS, DETRACTS
    assert blue - other > 0.5 and red - SUPPORTS[0] > 0.5
    assert SUPPORTS[2] > SUPPORTS[0] and DETRACTS[0] > DETRACTS[2]


def test_the_figure_says_what_it_shows() -> None:
    one = attribution()
    labels = [f"kind {i}" for i in range(300)]
    texts = " ".join(text for text, _ in sheets.readable_texts(one.plot(PICTURE, labels)))
    for words in (
        "kind 285",
        "R² 0.95",
        "± 0.1",
        "Blue supports",
        "orange counts against",
        "Pale:",
        "R²: how much",
    ):
        assert words in texts, words
    plain = explanation_sheet("", PICTURE, [], {"a": attribution(r2=None, stderr=None)}, labels)
    texts = " ".join(text for text, _ in sheets.readable_texts(plain))
    assert "Pale" not in texts and "R²" not in texts and "±" not in texts


def test_noise_is_drawn_pale() -> None:
    sure, unsure = attribution(stderr=None), attribution(stderr=torch.ones(2, 6))
    strong, weak = (np.asarray(each.plot(PICTURE).axes[2].images[0].get_array()) for each in (sure, unsure))

    def tint(shown: np.ndarray) -> float:
        return float(np.ptp(shown.astype(int), axis=2).mean())

    assert 0 < tint(weak) < 0.5 * tint(strong)


def test_pictures_of_every_kind_are_plotted(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)[None].double()
    kinds = [PICTURE, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PICTURE)]
    shown = [np.asarray(attribution().plot(each).axes[0].images[0].get_array()) for each in kinds]
    for each in shown:
        np.testing.assert_array_equal(each, PICTURE)
    for channels in (1, 2, 3, 4):
        attribution().plot(tensor[:, [0, 1, 2, 0]][:, :channels])
    with pytest.raises(InputError, match=r"image is \(8, 8\) and the segments \(32, 48\): give the picture"):
        attribution().plot(PICTURE[:8, :8])
    with pytest.raises(InputError, match=r"image is float64 of \(32, 48, 3\): give an array"):
        attribution().plot(PICTURE / 255)
    with pytest.raises(InputError, match="batch of 2"):
        attribution().plot(tensor.repeat(2, 1, 1, 1))
