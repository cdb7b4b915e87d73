"""Linearity over many pictures: rows and summary by slow twins."""

from __future__ import annotations

import pytest
import torch
from sheets import readable_texts
from test_evaluate import five
from test_evaluate_table import make_data
from torch import nn

from layermask.data import open_source
from layermask.errors import InputError
from layermask.removal.registry import removal
from layermask.studies import LinearityStudy, read_results, run
from layermask.studies.linearity.figure import sheet
from layermask.studies.linearity.report import summarise, words
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

SMALL = Preprocessing((36, 36), (32, 32))
REMOVALS = ("layermask", "greyout", "segment-mean")


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), SMALL, numbered(5), "five")


@pytest.fixture
def source(tmp_path):
    return open_source(make_data(tmp_path / "data", 3))


def tiles(patch: int):
    for top in range(0, 32, patch):
        for left in range(0, 32, patch):
            yield slice(top, top + patch), slice(left, left + patch)


@pytest.mark.parametrize("of", ["features", "logits"])
def test_rows_by_a_slow_twin(of, source, loaded, tmp_path):
    """One patch at a time; features are those of the layers before the head, written out."""
    experiment = LinearityStudy(REMOVALS, (8, 12, 16), of=of)
    found = read_results(run(experiment, loaded, source, tmp_path / "out", batch_size=5).folder)[0]
    model = loaded.model[:-1] if of == "features" else loaded.model
    rows = iter(range(len(found["image"])))
    for sample in source:
        x = SMALL(sample.load_image())
        for name in REMOVALS:
            for patch in (8, 12, 16):
                labels = torch.zeros(32, 32, dtype=torch.long)
                for number, tile in enumerate(tiles(patch)):
                    labels[tile] = number
                operator = removal(name, model, SMALL, labels)
                with torch.no_grad():
                    whole = operator(x, torch.ones(1, 1, 32, 32, dtype=torch.bool))[0].double()
                    total = torch.zeros_like(whole)
                    for tile in tiles(patch):
                        visible = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
                        visible[0, 0][tile] = True
                        total += operator(x, visible)[0].double()
                at = next(rows)
                assert [found[key][at] for key in ("image", "removal", "patch", "patches")] == [
                    sample.name,
                    name,
                    patch,
                    int(labels.max()) + 1,
                ]
                for key, value in {
                    "l2": (total - whole).norm() / whole.norm(),
                    "cosine": total @ whole / total.norm() / whole.norm(),
                    "norm": total.norm(),
                    "whole_norm": whole.norm(),
                }.items():
                    assert found[key][at] == pytest.approx(float(value), rel=1e-5)
    assert next(rows, None) is None


def test_a_sum_of_patches_is_linear(source, tmp_path):
    """A model that adds up pixels answers to the whole what it answers to the patches together."""
    adding = nn.Sequential(nn.AvgPool2d(32, divisor_override=1), nn.Flatten(), nn.Linear(3, 5, bias=False))
    loaded = Loaded(adding.eval(), SMALL, numbered(5), "adding")
    for of in ("features", "logits"):
        found, _ = read_results(
            run(LinearityStudy(("zero",), (8,), of=of), loaded, source, tmp_path / of).folder
        )
        assert found["l2"] == pytest.approx(0, abs=1e-5) and found["cosine"] == pytest.approx(1)


def test_the_summary_by_hand(source, loaded, tmp_path):
    experiment = LinearityStudy(REMOVALS, (16, 8))
    found, content = read_results(run(experiment, loaded, source, tmp_path / "out").folder)
    (table,) = summarise(found, content)
    assert [row[:3] for row in table.rows] == [(name, patch, 3) for patch in (16, 8) for name in REMOVALS]
    for row in table.rows:
        mine = (found["removal"] == row[0]) & (found["patch"] == row[1])
        for name, cell in zip(table.header[3:], row[3:], strict=True):
            assert cell.value == pytest.approx(found[name][mine].mean())
            assert found[name][mine].min() - 1e-12 <= cell.low <= cell.value <= cell.high
    assert table.better == {"l2": False, "cosine": True}
    assert any("The features of all patches" in line for line in words(found, content))
    assert len(readable_texts(sheet(found, content))) > 20


def test_the_head_is_put_aside_once(source, loaded, tmp_path):
    experiment = LinearityStudy(("greyout",), (16,))
    run(experiment, loaded, source, tmp_path / "out")
    assert len(experiment._headless) == 1 and len(experiment._made) == 1
    assert isinstance(loaded.model[-1], nn.Linear)


def test_what_cannot_be_measured(source, loaded, tmp_path):
    for options, message in (
        (dict(patches=(0,)), r"patches\[0\] is 0: give 1 or more"),
        (dict(patches=(8, 8)), "patches are 8, 8: give some, each once"),
        (dict(of="scores"), "of is 'scores': choose features or logits"),
        (dict(of="logits", head="fc"), "head 'fc' has no use"),
    ):
        with pytest.raises(InputError, match=message):
            LinearityStudy(**options)
    with pytest.raises(
        InputError, match="a patch of 32 pixels is the whole image, which five takes at 32x32"
    ):
        run(LinearityStudy(), loaded, source, tmp_path / "out")
    with pytest.raises(InputError, match="no head 'fc'"):
        run(LinearityStudy(patches=(8,), head="fc"), loaded, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_reads_sizes(tmp_path):
    from layermask.cli.evaluate import numbers

    assert numbers("16, 32,") == (16, 32)
    with pytest.raises(InputError, match="patches '16,x': give whole numbers of pixels"):
        numbers("16,x")


def test_a_head_that_is_not_the_last_layer_is_refused(source, loaded):
    LinearityStudy(patches=(8,), head="4").check(source, loaded)
    with pytest.raises(InputError, match="head '0': without it five cannot be asked"):
        LinearityStudy(patches=(8,), head="0").check(source, loaded)
