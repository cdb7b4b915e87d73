"""Pictures: the tints mean what the scale says, and no text is cut off or covers another."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sheets import readable_texts

from layermask.explain.attribution import Attribution
from layermask.explain.sheet import explanation_sheet
from layermask.io.figure import png, svg
from layermask.io.overlay import hidden_picture, overlay
from layermask.io.pixels import DETRACTS, SUPPORTS
from layermask.metrics.flipping import Curve
from layermask.render.bars import interval_chart
from layermask.render.curves import Plot, curve_chart, curve_sheet, swatch
from layermask.render.html import template
from layermask.render.sheets import prediction_sheet
from layermask.segment.segmenters import Grid

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
LONG = "black-footed ferret of the northern plains, and a name that never ends"
RANKING = [(LONG, 0.97), ("tench", 0.02), ("lynx", 1e-9), ("a", 0.0), ("b", 0.0)]


def attribution(targets: tuple[int, ...], scale: float = 0.02) -> Attribution:
    torch.manual_seed(0)
    count, rows = 36, len(targets)
    scores = scale * torch.randn(rows, count, dtype=torch.double)
    ones = torch.ones(rows, dtype=torch.double)
    return Attribution(scores, Grid(16)(PICTURE), targets, 0.5 * ones, "LIME", 10, r2=0.6 * ones)


def test_overlay_tints_by_sign_and_size():
    grey = np.full((2, 4, 3), 128, np.uint8)
    heatmap = torch.tensor([[1.0, 0.5, 0.0, -1.0], [9.0, -0.5, -0.25, -9.0]])
    tinted = overlay(grey, heatmap, 1.0).astype(int)
    base = tinted[0, 2]
    assert (base == base[0]).all()  # no score, no tint
    green, red = (np.round(255 * np.array(color)) for color in (SUPPORTS, DETRACTS))
    np.testing.assert_allclose(tinted[0, 0], 0.2 * base + 0.8 * green, atol=1)
    np.testing.assert_allclose(tinted[0, 3], 0.2 * base + 0.8 * red, atol=1)
    np.testing.assert_allclose(tinted[0, 1], 0.6 * base + 0.4 * green, atol=1)
    np.testing.assert_array_equal(tinted[1, [0, 3]], tinted[0, [0, 3]])  # beyond the limit is the limit


def test_overlay_of_no_scores_is_the_grey_picture():
    tinted = overlay(PICTURE, torch.zeros(96, 96), 0.0)
    assert (tinted == tinted[..., :1]).all()


def test_hidden_pixels_are_a_checkerboard():
    visible = torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    visible[..., :40, :] = True
    shown = hidden_picture(PICTURE, visible)
    np.testing.assert_array_equal(shown[:40], PICTURE[:40])
    assert set(np.unique(shown[40:])) == {215, 245}


def explained(targets: int, removals: int):
    found = {
        name: attribution(tuple(range(targets))) for name in ("layermask", "greyout", "blackout")[:removals]
    }
    return explanation_sheet(
        f"{LONG}.jpg, timm/some_model", PICTURE, RANKING, found, [LONG, "W" * 50, "$x_1$ {\\bad", "fox"]
    )


def predicted(columns: int):
    return prediction_sheet(LONG * 2, [("whole image", PICTURE, RANKING)] * columns)


def curved(targets: int, removals: int):
    shares, drawn = torch.linspace(0, 1, 21), torch.Generator().manual_seed(0)
    curves = {
        f"removal-{i}": [
            Curve(shares, 0.19 * torch.rand(targets, 21, generator=drawn), order, tuple(range(targets)))
            for order in ("insertion", "deletion")
        ]
        for i in range(removals)
    }
    return curve_sheet(f"{LONG}.jpg, timm/some_model, LIME", curves, [LONG, "W" * 50, "$x_1$ {\\bad", "fox"])


SHEETS = [
    (curved, (1, 3)),
    (curved, (3, 1)),
    (explained, (1, 1)),
    (explained, (1, 3)),
    (explained, (2, 3)),
    (explained, (4, 2)),
    (predicted, (2,)),
    (predicted, (4,)),
]


@pytest.mark.parametrize(("make", "sizes"), SHEETS)
def test_no_text_is_cut_off_or_covers_another(make, sizes):
    texts = readable_texts(make(*sizes))
    assert len(texts) > 8
    if make is curved:  # the y axes have numbers
        assert sum(text.startswith("0.1") for text, _ in texts) >= 2 * sizes[0]
    if make is explained:
        assert sum(text.endswith(", 50.0 %") for text, _ in texts) == sizes[0]


def test_the_scale_is_that_of_the_largest_score():
    found = {"layermask": attribution((0,), 0.02), "greyout": attribution((0,), 0.04)}
    figure = explanation_sheet("t", PICTURE, RANKING, found, ["tench"])
    limit = float(found["greyout"].scores.abs().max())
    ticks = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert ticks == [f"{-limit:.2g}", "0", f"+{limit:.2g}"]


def test_png_is_a_picture_and_the_same_each_time():
    def draw() -> bytes:
        return png(explanation_sheet("t", PICTURE, RANKING, {"layermask": attribution((0, 1))}, ["a", "b"]))

    first = draw()
    assert Image.open(io.BytesIO(first)).size[0] > 800
    assert first == draw()


CHARTS = {
    "curves": lambda: curve_chart(Plot([0, 1], {"a": [(0.5, 0.4, 0.6)] * 2, "b": [(0.1, 0.0, 0.3)] * 2})),
    "interval": lambda: interval_chart((0.2, 0.1, 0.3), (0.0, 0.5)),
    "swatch": lambda: swatch(1),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_page_sets_the_colours_of_its_charts(name):
    """So that they are seen on a dark page; ids begin with the key, and texts stay texts."""
    text = svg(CHARTS[name](), "k", label="<a>")
    assert text == svg(CHARTS[name](), "k", label="<a>") and text.count("<svg") == text.count("</svg>") == 1
    assert not re.search("(fill|stroke): #|font-family|https?:|<style|<metadata", text)
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert used and all(f"--{each}:" in template("page.css") for each in used)
    assert all(each.startswith("k-") for each in re.findall(r'(?:id="|#)([^")]+)', text))
    assert 'aria-label="&lt;a&gt;"' in text
    assert name != "curves" or re.search(r"<text[^>]*>share of the segments hidden</text>", text)


def test_no_figure_is_left_in_pyplot():
    import matplotlib.pyplot as plt

    png(prediction_sheet("t", [("whole image", PICTURE, RANKING)]))
    assert plt.get_fignums() == []
