"""What notebooks show of a value: facts and pictures in one piece of HTML, with every text escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from layermask import Attribution, LayerMasking, Masked
from layermask.explain import FeatureAblation
from layermask.io.pixels import png
from layermask.metrics import Predictions
from layermask.studies.audit.verdict import recommend
from layermask.testing.explainers import smooth_game, stripes
from layermask.zoo import Loaded, Preprocessing

BAD = "<script>alert('x')</script>"


class Checked(HTMLParser):
    """Every element is closed, and nothing is loaded from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.pictures: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "style", "link", "iframe"}
        if tag == "img":
            address = dict(attrs)["src"] or ""
            assert address.startswith("data:image/png;base64,") and dict(attrs)["alt"]
            self.pictures.append(address)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def pixels(self, number: int = 0) -> np.ndarray:
        data = base64.b64decode(self.pictures[number].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)))


def shown(value: object) -> Checked:
    return Checked(value._repr_html_())  # type: ignore[attr-defined]


def test_a_png_is_read_back() -> None:
    pixels = torch.randint(0, 256, (7, 5, 3), dtype=torch.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels.numpy())


def halves(channels: int, side: int = 48) -> Masked:
    """Two images, black to white from left to right; the first has its right half hidden, the second all."""
    value = torch.linspace(0, 1, side).expand(2, channels, side, side).clone()
    visible = torch.zeros(2, 1, side, side, dtype=torch.bool)
    visible[0, :, :, : side // 2] = True
    value[~visible.expand_as(value)] = torch.nan
    return Masked(value, visible)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_a_masked_value_shows_its_images(channels: int) -> None:
    page = shown(halves(channels))
    assert f"shape=(2, {channels}, 48, 48)" in page.text
    assert "25.0 %, from 0.0 to 50.0 % of an image" in page.text
    first, second = page.pixels(0), page.pixels(1)
    np.testing.assert_allclose(first[0, :24, 0], np.linspace(0, 255, 24), atol=1)
    assert set(np.unique(first[:, 24:])) == set(np.unique(second)) == {215, 245}


@pytest.mark.parametrize(
    "x",
    [
        Masked(torch.zeros(()), torch.ones((), dtype=torch.bool)),
        Masked(torch.zeros(2, 5, 4), torch.ones(2, 5, 1, dtype=torch.bool)),
        Masked(torch.zeros(2, 3, 4, 4, dtype=torch.int64), torch.ones(1, 1, 4, 4, dtype=torch.bool)),
        Masked(torch.zeros(0, 3, 4, 4), torch.ones(0, 1, 4, 4, dtype=torch.bool)),
        Masked(torch.zeros(1, 3, 4, 4, requires_grad=True).half(), torch.ones(1, 1, 1, 1, dtype=torch.bool)),
        Masked(torch.zeros(1, 3, 4, 4, dtype=torch.complex64), torch.ones(1, 1, 4, 4, dtype=torch.bool)),
        Masked(torch.full((1, 3, 4, 4), torch.inf), torch.ones(1, 1, 4, 4, dtype=torch.bool)),
        Masked(
            torch.zeros(1, 3, 4, 4, device="meta"), torch.ones(1, 1, 4, 4, dtype=torch.bool, device="meta")
        ),
        Masked(torch.zeros(1, 2, 900, 700), torch.ones(1, 2, 900, 700, dtype=torch.bool)),
    ],
    ids=lambda x: repr(x),
)
def test_any_masked_value_is_shown(x: Masked) -> None:
    assert len(x._repr_html_()) < 20_000 and "shape=" in shown(x).text


def test_looking_at_a_value_of_the_sparse_engine_leaves_it_rows() -> None:
    seen: list[str] = []

    def look(module: nn.Module, inputs: tuple, out: Masked) -> None:
        before = out.present_value
        seen.append(out._repr_html_())
        assert out.present_value is before

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    model[0].register_forward_hook(look)
    visible = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    visible[..., :16] = True
    with torch.no_grad():
        LayerMasking(model, engine="sparse")(torch.zeros(1, 3, 32, 32), visible)
    assert "SparseMasked(shape=(1, 8, 30, 30)" in seen[0]


def test_an_attribution_shows_its_scores() -> None:
    found = FeatureAblation(smooth_game(4), output="logit").attribute(
        torch.ones(1, 3, 12, 12), [0, 2], stripes(4)
    )
    page = shown(found)
    assert "leave-one-out" in page.text and f"best segments {int(found.scores[0].argmax())} (" in page.text
    assert len(page.pictures) == 2
    best = page.pixels(0)[0, 3 * int(found.scores[0].argmax())].astype(int)
    assert best[1] > best[0] + 20  # green


@pytest.mark.parametrize("shape", [(12,), (3, 4, 5)])
def test_an_attribution_of_signals_and_volumes_has_no_picture(shape: tuple[int, ...]) -> None:
    segments = torch.zeros(shape, dtype=torch.int64)
    nan = torch.full((1, 1), torch.nan, dtype=torch.double)
    page = shown(Attribution(nan, segments, (7,), torch.zeros(1), BAD, r2=torch.ones(1)))
    assert page.pictures == [] and "r2 1" in page.text and BAD in page.text


def test_a_loaded_model_shows_what_it_takes() -> None:
    model = nn.Linear(2, 3)
    page = shown(Loaded(model, Preprocessing(), (BAD, "b", "c", "d"), BAD))
    assert f"{BAD}; b; c; ..." in page.text and "Linear, 9 parameters" in page.text
    assert "bilinear" in page.text and page.pictures == []


def kept(lead: float) -> Tensor:
    draws = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return (0.2 * draws + torch.tensor([lead, 0, 0])).clamp(0, 1)


def test_predictions_show_their_curves() -> None:
    predicted = torch.tensor([[1, 1, 2], [3, 4, 4]])
    fractions = torch.tensor([0.0, 0.5, 1.0])
    one = Predictions(predicted, fractions, labels=torch.tensor([1, 4]))
    assert repr(one) == "Predictions(predicted (2, 3), 3 fractions from 0 to 1, labels)"
    text = shown(one).text
    assert "accuracy 0.500 1.000 0.500" in text and "unchanged 1.000 0.500 0.000" in text
    assert "accuracy" not in shown(Predictions(predicted, fractions)).text
    two = shown(Predictions(torch.stack([predicted, predicted], 1), fractions)).text
    assert "unchanged 1.000 0.500 0.000; 1.000 0.500 0.000" in two


def test_a_verdict_shows_how_sure_it_is() -> None:
    page = shown(recommend(["greyout", BAD, "zero"], kept(0.6)))
    assert "greyout (told apart from all others)" in page.text and f"greyout less {BAD}" in page.text
    assert page.text.count("(told apart)") == 2
    tie = shown(recommend(["greyout", "blur", "zero"], kept(0.0)))
    assert "(of several alike)" in tie.text and "not told apart" in tie.text and "why" in tie.text
    few = shown(recommend(["greyout", "blur"], kept(0.1)[:5, :2]))
    assert "(too few images to say)" in few.text


def test_nothing_is_escaped_twice() -> None:
    assert not re.search(
        r"&amp;(lt|gt|quot|#x27);", Loaded(nn.ReLU(), Preprocessing(), (BAD,), BAD)._repr_html_()
    )
