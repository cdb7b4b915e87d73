"""The HTML report: what it holds, that nothing breaks out of it, and what a browser makes of it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.io.overlay import hidden_picture, overlay
from layermask.render.explanation_page import embedded, report_page
from layermask.segment.labels import restore_segments, spread
from layermask.segment.segmenters import Grid

HEIGHT, WIDTH, CELL = 64, 96, 16
COUNT = HEIGHT * WIDTH // CELL**2
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
EVIL = "</script><script>document.title = 'broken'</script><b>&amp;\"' @@{data} \u2028"
LABELS = ["tench", EVIL]
PREDICTIONS = [(EVIL, 0.7), ("tench", 0.2)]


def attribution(seed: int, **fields) -> Attribution:
    torch.manual_seed(seed)
    scores = 0.02 * torch.randn(2, COUNT, dtype=torch.double)
    fields = {"stderr": 0.1 * scores.abs(), "r2": torch.tensor([0.61, 0.72]), **fields}
    settings = {"output": "probability", "n_samples": 500}
    prediction = torch.tensor([0.2, 0.7], dtype=torch.double)
    return Attribution(
        scores, Grid(CELL)(PICTURE), (0, 1), prediction, "LIME", 500, settings=settings, **fields
    )


FOUND = {"layermask": attribution(0), "greyout": attribution(1), EVIL: attribution(2)}


def page(found=FOUND, title="a title", settings=None) -> str:
    settings = settings or {"seed": 0, "model": {"name": "builtin", "weights": None}, "evil": EVIL}
    return report_page(title, PICTURE, PREDICTIONS, found, LABELS, settings)


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


# What it holds


def test_the_data_are_those_of_the_attributions():
    data = data_of(page())
    runs = torch.tensor(data["runs"]).view(-1, 2).tolist()
    segments = restore_segments({"runs": runs, "shape": [data["height"], data["width"]]})
    assert torch.equal(segments, FOUND["layermask"].segments)
    assert data["limits"] == [
        max(float(each.scores[row].abs().max()) for each in FOUND.values()) for row in (0, 1)
    ]
    for stored, each in zip(data["removals"], FOUND.values(), strict=True):
        np.testing.assert_allclose(stored["scores"], each.scores, rtol=1e-4)
        np.testing.assert_allclose(stored["stderr"], each.stderr, rtol=1e-4)
        for row in (0, 1):
            best = torch.isin(each.segments, torch.tensor(stored["order"][row][:5]))
            assert torch.equal(best, each.visible(5, row)[0, 0])


def test_the_facts_are_in_the_text():
    text = page()
    for words in (
        "R² 0.61, 500 samples",
        "R² 0.72",
        "(median)",
        "tench <small>20.0 %; scale: change of prob",
    ):
        assert words in text
    assert '<tr><th scope="row">model: name</th><td>builtin</td></tr>' in text
    assert '<tr><th scope="row">model: weights</th><td>none</td></tr>' in text
    assert "@@{" not in text.replace(html.escape("@@{data}"), "").replace("@@{data}", "")


def test_other_explainers_have_other_facts():
    region = torch.zeros(2, COUNT, dtype=torch.bool)
    region[0, :7] = True
    plain = dataclasses.replace(
        attribution(0, stderr=None, r2=None, region=region), n_samples=0, settings={"output": "logit"}
    )
    text = page({"layermask": plain})
    assert "smallest region: 7 segments" in text and "(median)" not in text and "R²" not in text
    assert "logit 0.2; scale: change of logit" in text
    assert "stderr" not in data_of(text)["removals"][0]


def test_what_is_not_finite_is_no_number():
    odd = attribution(0, r2=torch.tensor([float("nan"), 0.5]))
    odd.scores[0, 3] = float("inf")
    data = data_of(page({"layermask": odd}))
    assert data["removals"][0]["scores"][0][3] is None
    assert data["limits"][0] < 1


def test_classes_without_a_name_have_a_number():
    each = dataclasses.replace(attribution(0), targets=(5, 1))
    assert "class 5" in page({"layermask": each})


def test_a_page_of_a_real_size_is_small(photograph):
    picture = np.array(Image.open(photograph).convert("RGB").resize((224, 224)))
    scores = torch.randn(2, 196, dtype=torch.double)
    each = Attribution(scores, Grid(16)(picture), (0, 1), torch.ones(2), "LIME", 500, stderr=scores.abs())
    text = report_page("t", picture, PREDICTIONS, dict.fromkeys("abc", each), LABELS, {})
    assert len(text.encode()) < 400_000


# Nothing comes from elsewhere, and nothing breaks out


def test_nothing_is_loaded_from_elsewhere():
    text = page()
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|<link|<iframe", text)
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', text)) == {"data:"}
    assert "default-src 'none'" in text


@pytest.mark.parametrize("text", [EVIL, "<!--<script>", "]]>", "\u2029", "ß 猫", '"\\'])
def test_embedded_json_is_the_same_and_has_no_markup(text):
    safe = embedded({"text": text})
    assert json.loads(safe) == {"text": text}
    assert not set(safe) & set("<>&\u2028\u2029")


def test_names_are_escaped():
    text = page(title=EVIL)
    assert "document.title = 'broken'" not in text
    assert text.count("</script>") == 2 and text.count("<script") == 2


# Bad input


def test_attributions_that_do_not_go_together():
    other = dataclasses.replace(FOUND["greyout"], targets=(1, 0))
    with pytest.raises(InputError, match=r"greyout explains the classes \(1, 0\) and layermask \(0, 1\)"):
        page({"layermask": FOUND["layermask"], "greyout": other})
    other = dataclasses.replace(FOUND["greyout"], segments=Grid(CELL)(PICTURE).flip(0))
    with pytest.raises(InputError, match="different segments"):
        page({"layermask": FOUND["layermask"], "greyout": other})
    with pytest.raises(InputError, match="no attributions"):
        page({})


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (PICTURE[:50], r"the picture is \(50, 96\) and the segments \(64, 96\)"),
        (PICTURE / 255, r"is float64 \(64, 96, 3\): expected \(H, W, 3\) uint8"),
        (PICTURE[..., 0], r"is uint8 \(64, 96\)"),
    ],
)
def test_pictures_that_do_not_fit(picture, words):
    with pytest.raises(InputError, match=words):
        report_page("t", picture, PREDICTIONS, FOUND, LABELS, {})


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Open a file in a browser without a window, and return what it prints; nothing may go to the console."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        pytest.skip(f"no browser to open the page in: none of {', '.join(BROWSERS)} is installed")
    folder = tmp_path_factory.mktemp("browser")

    def browse(path: Path, anchor: str, *options: str) -> str:
        fixed = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=5000".split()
        command = [binary, *fixed, f"--user-data-dir={folder}", "--enable-logging=stderr", *options]
        done = subprocess.run([*command, path.as_uri() + anchor], capture_output=True, text=True, timeout=60)
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    (folder / "hello.html").write_text("<p>hello")
    try:
        if "hello" not in browse(folder / "hello.html", "", "--dump-dom"):
            pytest.skip(f"{binary} cannot open a file in the temporary folder")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{binary} does not answer")
    return browse


@pytest.fixture(scope="module")
def opened(browse, tmp_path_factory) -> dict:
    """What a script sees that uses the page: canvases and texts at first, and after each thing it does."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page().replace("</body>", f"<script>{USER}</script></body>"))
    dom = browse(path, "#shown=10", "--dump-dom")
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page was not painted"
    return {**json.loads(html.unescape(found[1])), "dom": dom}


USER = """
const tops = () => [...document.querySelectorAll("canvas, table")].map(
  element => element.getBoundingClientRect().top + scrollY);
const unpainted = tops();
const wait = setInterval(() => {
  if (!document.documentElement.dataset.painted) return;
  clearInterval(wait);
  const canvases = [...document.querySelectorAll("canvas")];
  const pixels = canvas => {  // one of the four that show a pixel of the picture
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const drawing = copy.getContext("2d", {willReadFrequently: true});
    drawing.drawImage(canvas, 0, 0);
    const all = drawing.getImageData(0, 0, canvas.width, canvas.height).data;
    const out = [];
    for (let y = 1; y < canvas.height; y += 2)
      for (let x = 1; x < canvas.width; x += 2)
        for (let c = 0; c < 3; c++) out.push(all[4 * (y * canvas.width + x) + c]);
    return out;
  };
  const texts = name => [...document.querySelectorAll(name)].map(e => e.textContent);
  const key = name => canvases[0].dispatchEvent(new KeyboardEvent("keydown", {key: name}));
  const seen = {title: document.title, headings: texts("h3"), before: unpainted};
  seen.first = canvases.map(pixels);
  seen.shares = texts(".share");
  const slider = document.getElementById("shown");
  slider.value = 3;
  slider.dispatchEvent(new Event("input"));
  seen.moved = canvases.map(pixels);
  seen.moved_shares = texts(".share");
  seen.count = document.getElementById("count").textContent;
  slider.dispatchEvent(new Event("change"));
  seen.hash = location.hash;
  const box = canvases[0].getBoundingClientRect();
  canvases[0].dispatchEvent(new PointerEvent("pointermove",
    {clientX: box.left + box.width * 0.25, clientY: box.top + box.height * 0.6}));
  seen.pointed = texts(".readout");
  seen.outlined = pixels(canvases[0]);
  canvases[0].dispatchEvent(new PointerEvent("pointerleave"));
  key("ArrowRight"); key("ArrowRight");
  seen.second = texts(".readout")[0];
  key("End");
  seen.last = texts(".readout")[0];
  key("Escape");
  seen.after = canvases.map(pixels);
  seen.tops = tops();
  seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const pre = document.createElement("pre");
  pre.id = "seen";
  pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
}, 20);
"""


def image(pixels: list[int]) -> np.ndarray:
    return np.array(pixels).reshape(HEIGHT, WIDTH, 3)


def views():
    """Rows and attributions in the order of the page's figures."""
    return [(row, each) for row in (0, 1) for each in FOUND.values()]


def test_overlays_are_those_of_the_pictures(opened):
    rows, columns = (np.arange(n) % CELL != CELL - 1 for n in (HEIGHT, WIDTH))  # no border runs there
    limits = [max(float(each.scores[row].abs().max()) for each in FOUND.values()) for row in (0, 1)]
    assert len(opened["first"]) == 2 * len(views())
    for painted, (row, each) in zip(opened["first"][::2], views(), strict=True):
        want = overlay(PICTURE, spread(each.shades()[row], each.segments, 0.0), limits[row]).astype(int)
        assert np.abs(image(painted) - want)[rows][:, columns].max() <= 1


@pytest.mark.parametrize(("when", "shown"), [("first", 10), ("moved", 3)])
def test_the_best_segments_are_shown_and_the_slider_changes_them(opened, when, shown):
    for painted, (row, each) in zip(opened[when][1::2], views(), strict=True):
        np.testing.assert_array_equal(image(painted), hidden_picture(PICTURE, each.visible(shown, row)))


def test_the_shares_are_of_pixels(opened):
    assert opened["shares"] == ["10 segments, 41.7 % of the pixels"] * 6
    assert opened["moved_shares"] == ["3 segments, 12.5 % of the pixels"] * 6
    assert opened["count"] == f"3 of {COUNT}" and opened["hash"] == "#shown=3"


def test_pointing_shows_the_score_under_every_removal(opened):
    segment = int(FOUND["layermask"].segments[int(0.6 * HEIGHT), WIDTH // 4])
    for text, (row, each) in zip(opened["pointed"], views(), strict=True):
        score, error = re.match(r"\+?(\S+) ± (\S+)\n", text).groups()
        assert float(score.replace("−", "-")) == pytest.approx(float(each.scores[row, segment]), rel=0.01)
        assert float(error) == pytest.approx(float(each.stderr[row, segment]), rel=0.05)
        assert f"\nsegment {segment}, rank " in text
    changed = np.abs(image(opened["outlined"]) - image(opened["moved"][0])).max(2) > 0
    rows, columns = changed.nonzero()
    assert changed.any() and np.ptp(rows) <= CELL + 2 and np.ptp(columns) <= CELL + 2


def test_keys_go_through_the_segments_by_score(opened):
    order = FOUND["layermask"].scores[0].argsort(descending=True)
    assert opened["second"].endswith(f"segment {order[1]}, rank 2 of {COUNT}")
    assert opened["last"].endswith(f"segment {order[-1]}, rank {COUNT} of {COUNT}")
    assert opened["after"] == opened["moved"]


def test_nothing_moves_and_nothing_breaks_out(opened):
    assert opened["before"] == opened["tops"]
    assert opened["wide"] == 0
    assert opened["title"] == "a title"
    assert opened["headings"] == list(FOUND) * 2


def test_screenshots(browse, tmp_path):
    """What is on the screen, light and dark, narrow and wide, and after the slider is moved."""
    path = tmp_path / "page.html"
    path.write_text(page({"layermask": FOUND["layermask"]}))

    def shot(name: str, anchor: str, *options: str) -> np.ndarray:
        file = tmp_path / f"{name}.png"
        browse(path, anchor, f"--screenshot={file}", *options)
        return np.array(Image.open(file).convert("RGB")).astype(int)

    few, many = (shot(name, f"#shown={name}", "--window-size=900,1500") for name in ("2", "20"))
    checkered = [(np.isin(each, (215, 245)).all(2)).sum() for each in (few, many)]
    assert checkered[0] > 3 * checkered[1] > 0
    assert (few[:600] != many[:600]).any(2).mean() < 0.05  # the slider alone, not where it stands
    dark = shot("dark", "#shown=2", "--window-size=360,900", "--blink-settings=preferredColorScheme=0")
    assert (few[0, 0] == 255).all() and (dark[0, 0] < 60).all()
    assert dark.std() > 20
