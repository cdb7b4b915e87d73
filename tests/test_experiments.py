"""The paper's experiments: what is printed is what was measured, and each has its place on the page."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import areas
import figure3
import figure8
import matched
import numpy as np
import pytest
import readme
import table3
import torch

from layermask import Attribution
from layermask.removal import Adaptive

FOLDER = Path(readme.__file__).parent


@pytest.mark.parametrize("name", (*readme.TABLES, *readme.PICTURES))
def test_every_experiment_is_on_the_page(name):
    module = import_module(name)
    assert f"## {(module.__doc__ or '').splitlines()[0].rstrip('.')}\n" in readme.PAGE.read_text()


def test_every_file_of_results_belongs_to_an_experiment():
    known = re.compile("|".join((*readme.TABLES, *readme.PICTURES)))
    strange = [path.name for path in readme.RESULTS.iterdir() if not known.match(path.name)]
    assert not strange


def test_pages_of_results_show_files_that_are_there():
    for link in re.findall(r"\]\((results/[^)]+)\)", readme.PAGE.read_text()):
        assert (FOLDER / link).is_file(), link


@pytest.mark.slow
def test_the_page_is_what_the_results_say(monkeypatch):
    for name in readme.TABLES:
        if hasattr(module := import_module(name), "drawing"):
            monkeypatch.setattr(module, "drawing", lambda each: f"![{each}](results/{each}.png)")
    below = readme.PAGE.read_text().split(readme.LINE)[1].strip()
    assert "\n\n".join(readme.sections()) == below


def test_table_3_is_the_mean_over_settings_of_the_images_that_both_runs_have():
    """All settings have the same number of rows, so the mean of means is that of all rows."""
    variants, others = areas.kept("table3")[0], areas.kept("table1")[0]
    printed = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[2] for line in table3.section()[4:]}
    shared = set(variants["image"].tolist())
    assert shared <= set(others["image"].tolist())
    for columns, name, title in (
        (others, "greyout", "grey"),
        (others, "layermask", "layer masking"),
        (variants, "zero-padding", "with zero padding"),
    ):
        rows = (columns["removal"] == name) & np.isin(columns["image"], list(shared))
        right = (columns["prediction"] == columns["label"])[rows].mean()
        assert float(printed[title]) == pytest.approx(right, abs=6e-5)


def test_the_strongest_segments_keep_their_signs_and_order():
    scores = torch.tensor([[0.1, -0.4, 0.2, 0.05]], dtype=torch.float64)
    found = Attribution(scores, torch.arange(4).view(2, 2), (0,), torch.tensor([0.5]), "LIME")
    kept = figure8.strongest(found, 2).scores
    assert kept.tolist() == [[0.0, -1.0, 0.5, 0.0]]


@pytest.mark.parametrize("rings", figure3.RINGS)
def test_padding_reads_nothing_that_is_hidden(rings):
    visible = figure3.disc(24)
    image = torch.randn(1, 3, 24, 24)
    noisy = torch.where(visible, image, torch.randn_like(image) * 1e3)
    (one, known), (other, _) = (figure3.padded(each, visible, rings) for each in (image, noisy))
    assert torch.equal(one.where(known, torch.zeros(())), other.where(known, torch.zeros(())))
    assert known.sum() >= visible.sum()


def test_answers_are_mixed_as_adaptive_mixes_them():
    side = 224
    draw = torch.Generator().manual_seed(0)
    seen = [matched._patches(share, side, draw) for share in (0.5, 0.8, 0.9)]
    masks = torch.stack([*seen, matched._box(side, draw), torch.ones(side, side).bool()])[:, None]
    logits = {name: torch.randn(5, 7, generator=draw) for name in ("steady", "grey", "matched")}
    mixed = matched._mixtures(masks, logits, [matched.CHOSEN])[f"matched and grey, {matched.CHOSEN}"]
    weight = Adaptive(torch.nn.Identity()).weight(masks)
    assert weight[-1] == 0 < weight[1] < 1 and weight[-2] == 1
    torch.testing.assert_close(mixed, torch.lerp(logits["matched"], logits["grey"], weight[:, None]))
    assert [float(mask.float().mean()) for mask in seen[:1]] == [0.5] and masks[3].float().mean() == 0.25


def test_differences_are_paired_and_objects_drawn_by_video():
    columns = ("group", "picture", "steady", "matched")
    table = [("a", "1", 1, 1), ("a", "2", 0, 1), ("b", "3", 0, 1), ("b", "4", 1, 1)]
    found: matched.Right = {}
    for group, picture, *right in table:
        for name, each in zip(columns[2:], right, strict=True):
            found.setdefault((name, "box"), {}).setdefault(group, {})[picture] = bool(each)
    assert matched.accuracy(found, "steady", "box") == 0.5
    assert matched.difference(found, "matched", "steady", "box") == (0.5, 0.5, 0.5)  # in each group alike
