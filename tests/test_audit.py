"""The audit: planted biases are found, verdicts are as sure as they say, the page is its record."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import refused
from test_cli import run as command
from torch import Tensor, nn

from layermask.data import open_source
from layermask.errors import InputError
from layermask.metrics.predictions import Predictions
from layermask.metrics.wordnet import are_imagenet
from layermask.removal.registry import REMOVALS, removal
from layermask.render.words import listed, percent, points, rounded
from layermask.segment.segmenters import Grid
from layermask.studies import LinearityStudy, read_results
from layermask.studies.audit import audit, recommend, words
from layermask.studies.audit.findings import shows_hidden
from layermask.studies.audit.mistaken import mistaken_for
from layermask.studies.audit.report import audit_page
from layermask.studies.audit.samples import _visible, choose
from layermask.studies.audit.verdict import FEWEST, images_needed
from layermask.studies.registry import AUDIT_REMOVALS
from layermask.studies.segments.answers import SegmentAnswers, read_answers
from layermask.zoo.labels import imagenet, numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

SMALL = Preprocessing((32, 32), (32, 32))
COUNT, CLASSES = 24, 10
EVIL = "</style><script>alert(1)</script><b>&amp;\"' @@{title}"
THREE = ("layermask", "greyout", "blackout")
QUICK = {"segmentations": ("grid:8",), "linearity_images": 2}


class Colours(nn.Module):
    """The class is the nearest of six colours to the mean of the pixels; `grey` adds a bias to class 7."""

    def __init__(self, grey: float = 0.0) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, CLASSES, 1, bias=False)
        axes = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(4, 3)])
        self.colours.weight.data = axes.view(CLASSES, 3, 1, 1)
        self.grey = nn.Parameter(torch.zeros(1, CLASSES, 1, 1).index_fill_(1, torch.tensor(7), grey))
        self.head = nn.Linear(CLASSES, CLASSES, bias=False)
        self.head.weight.data = torch.eye(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        plain = (1 - 20 * x.abs().amax(1, keepdim=True)).relu()  # of pixels that are grey
        return self.head((self.colours(x) + self.grey * plain).mean((2, 3)))


class Shy(nn.Module):
    """Answers 0 unless the pixels are bright in the mean: grey ones make it surer, few ones left do not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.head.weight.data = torch.tensor([[0.0] * 3, [1.0] * 3])
        self.head.bias.data = torch.tensor([0.9, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def paint(root: Path, masks: bool = False, labels: bool = True) -> Path:
    """Pictures of noise about one of six colours, with that as their label."""
    root.mkdir()
    random = np.random.default_rng(0)
    for number in range(COUNT):
        colour = np.full(3, 120)
        colour[number % 3] += 70 if number % 6 < 3 else -70
        pixels = random.normal(colour, 12, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02}.png")
        if masks:
            (root / "masks").mkdir(exist_ok=True)
            mask = np.zeros((32, 32), np.uint8)
            mask[4 : 8 + number // 2, 4:12] = 255 if number else 0  # the first has no object
            Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")
    if labels:
        rows = [f"{number:02}.png,{number % 6}" for number in range(COUNT)]
        (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return paint(tmp_path_factory.mktemp("audit") / "data", masks=True)


def biased() -> Loaded:
    return Loaded(Colours(grey=30.0).eval(), SMALL, (*numbered(7), EVIL, *numbered(2)), "biased")


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """The audit of a model that takes grey pixels for class 7."""
    removals = (*THREE, "tokendrop", "segment-mean")
    return audit(biased(), open_source(data), tmp_path_factory.mktemp("found"), removals=removals, **QUICK)


@pytest.fixture(scope="module")
def text(found) -> str:
    return found.page.read_text(encoding="utf-8")


def plain(text: str) -> str:
    return text.replace("&nbsp;", " ")


# Planted biases


def test_a_planted_bias_is_found(found):
    of_grey = found.record["removals"]["greyout"]
    assert [each["class"] for each in of_grey["mistaken"]] == [7]
    assert of_grey["mistaken"][0]["share"] > 0.9 and of_grey["mistaken"][0]["whole"] == 0
    assert found.record["removals"]["layermask"]["mistaken"] == []
    assert (found.recommended, found.verdict["kind"]) == ("layermask", "clear")
    assert "greyout, as many tools paint, keeps" in str(found) and EVIL in str(found)
    assert of_grey["areas"]["unchanged"]["value"] < 0.4
    assert found.record["removals"]["layermask"]["areas"]["unchanged"]["value"] > 0.9


def test_a_model_robust_to_grey_is_a_tie(data, tmp_path):
    loaded = Loaded(Colours().eval(), SMALL, numbered(CLASSES), "robust")
    found = audit(loaded, open_source(data), tmp_path, removals=("greyout", "layermask", "blackout"), **QUICK)
    assert found.verdict["kind"] == "tie" and set(found.verdict["tied"]) == {"layermask", "greyout"}
    assert (found.recommended, found.verdict["cheapest"]) == ("layermask", "greyout")
    told = str(found)
    assert f"cannot be told apart with these {COUNT} images: take layermask" in told
    assert "keep equally many predictions" in told and "If speed matters, take greyout" in told


def test_grey_is_recommended_where_it_is_best(tmp_path):
    loaded = Loaded(Shy().eval(), SMALL, numbered(2), "shy")
    random = np.random.default_rng(1)
    for number in range(36):
        pixels = random.normal(115, 60, (4, 4, 3)).repeat(8, 0).repeat(8, 1).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    found = audit(loaded, open_source(tmp_path), tmp_path / "out", removals=("layermask", "greyout"), **QUICK)
    assert (found.recommended, found.verdict["kind"]) == ("greyout", "clear")
    assert "accuracy" not in found.record["metrics"]
    text = found.page.read_text()
    assert "The data has no labels" in text and "Not measured: the data has no object masks" in text


# The record


def test_numbers_are_those_of_the_results(found):
    """A slow twin from the Parquet rows: areas, curves, shape."""
    rows, _ = read_results(found.folder / "segments")
    for name in THREE:
        chosen = rows["removal"] == name
        area = rows["unchanged"][chosen].mean()
        assert found.record["removals"][name]["areas"]["unchanged"]["value"] == pytest.approx(area)
        if name != found.recommended:
            best = rows["unchanged"][rows["removal"] == found.recommended].mean()
            lead = found.record["removals"][name]["differences"]["unchanged"]
            assert lead["value"] == pytest.approx(best - area) and lead["low"] > 0
        right = rows["prediction"] == rows["label"]
        for place, fraction in enumerate(found.record["fractions"]):
            value = found.record["removals"][name]["curves"]["accuracy"]["grid:8"]["value"][place]
            assert value == pytest.approx(right[chosen & (rows["fraction"] == fraction)].mean())
    rows, _ = read_results(found.folder / "shape")
    assert (found.record["shape"]["images"], found.record["shape"]["right"]) == (COUNT, COUNT - 1)
    for name, each in found.record["shape"]["removals"].items():
        chosen = (rows["removal"] == name) & (rows["object"] > 0)
        without, elsewhere = (rows[key][chosen] == rows["label"][chosen] for key in ("hidden", "broken"))
        assert each["hidden"]["value"] == pytest.approx(without.mean())
        assert each["difference"]["value"] == pytest.approx(elsewhere.mean() - without.mean())
        if name != found.recommended:
            best = found.record["shape"]["removals"][found.recommended]["difference"]["value"]
            assert each["lead"]["value"] == pytest.approx(best - each["difference"]["value"])
    rows, _ = read_results(found.folder / "linearity")
    assert found.record["linearity"]["images"] == 2
    for name, each in found.record["linearity"]["patches"]["8"].items():
        assert each["cosine"]["value"] == pytest.approx(rows["cosine"][rows["removal"] == name].mean())


def test_values_lie_within_their_bounds(found):
    def walk(value):
        if isinstance(value, dict):
            if {"value", "low", "high"} <= value.keys() and not isinstance(value["value"], list):
                assert value["low"] - 1e-9 <= value["value"] <= value["high"] + 1e-9
            for each in value.values():
                walk(each)

    walk(found.record)


def test_what_is_left_out_is_said(found, text):
    assert list(found.record["left_out"]) == ["tokendrop"]
    assert "tokendrop was left out: " in str(found) and "tokendrop was left out: " in text
    assert found.record["candidates"] == list(THREE)
    assert "segment-mean shows the model some of what it hides" in str(found)
    assert "segment-mean" not in found.record["shape"]["removals"]
    assert found.record["verdict"]["same_when_whole"] == COUNT


def test_the_file_is_the_record(found):
    assert json.loads((found.folder / "audit.json").read_text()) == json.loads(json.dumps(found.record))
    assert json.dumps(found.record, allow_nan=False)


def test_a_stopped_audit_goes_on(data, found, tmp_path, monkeypatch):
    """Stopped in its last part it does only that part again, and ends with the same bytes."""

    def stop(*arguments):
        raise KeyboardInterrupt

    removals = (*THREE, "tokendrop", "segment-mean")
    with monkeypatch.context() as patch:
        patch.setattr(LinearityStudy, "rows", stop)
        with pytest.raises(KeyboardInterrupt):
            audit(biased(), open_source(data), tmp_path, removals=removals, **QUICK)
    assert not (tmp_path / "audit.json").exists()
    left = {}

    def noting(name, store, count):
        from contextlib import nullcontext

        left[name] = count
        return nullcontext(lambda done: None)

    audit(biased(), open_source(data), tmp_path, removals=removals, progress=noting, **QUICK)
    assert left == {"segments": 0, "shape": 0, "linearity": 2}
    for name in ("audit.json", "audit.html"):
        assert (tmp_path / name).read_bytes() == (found.folder / name).read_bytes()
    with pytest.raises(InputError, match="seed was 0 and is 1"):
        audit(biased(), open_source(data), tmp_path, removals=removals, seed=1, **QUICK)


def test_what_cannot_be_audited(data, tmp_path):
    with pytest.raises(InputError, match=r"of layermask, tokendrop 1 can be made for biased \(tokendrop: "):
        audit(biased(), open_source(data), tmp_path, removals=("layermask", "tokendrop"))
    with pytest.raises(InputError, match="unknown removal 'gray'"):
        audit(biased(), open_source(data), tmp_path, removals=("layermask", "gray"))
    with pytest.raises(InputError, match="all of segment-mean, blur show what they hide"):
        audit(biased(), open_source(data), tmp_path, removals=("segment-mean", "blur"), **QUICK)


def test_removals_of_ones_own(data, tmp_path):
    """One that shows the image after all is found out by its answers."""

    def operator(name, loaded, segments):
        return (
            removal("greyout", loaded.model, SMALL)
            if name == "mine"
            else lambda x, visible: loaded.model(x.expand(len(visible), -1, -1, -1))
        )

    options = {"segmentations": ("grid:8",), "linearity_images": 0, "operator": operator}
    found = audit(biased(), open_source(data), tmp_path, removals=("mine", "cheat"), **options)
    assert found.record["candidates"] == ["mine"] and found.recommended == "mine"
    assert found.record["removals"]["cheat"]["areas"]["unchanged"]["value"] == 1
    assert "mine is the only one that does not show what it hides" in str(found)


# Verdicts


def shares(*means: float, count: int = 60, seed: int = 0, spread: float = 0.1) -> Tensor:
    """Shares of answers kept (N, R), about these means, of images that are easy or hard for all removals."""
    random = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, generator=random, dtype=torch.double)
    own = torch.randn(count, len(means), generator=random, dtype=torch.double)
    return torch.tensor(means, dtype=torch.double) + spread * (2 * common + own)


NAMES = ("blackout", "greyout", "layermask", "mean")


def test_a_clear_verdict():
    verdict = recommend(NAMES, shares(0.1, 0.6, 0.3, 0.4))
    assert (verdict.kind, verdict.recommended, verdict.because) == ("clear", "greyout", "")
    assert verdict.level == pytest.approx(1 - 0.05 / 3)
    assert all(each.told_apart and each.images_needed is None for each in verdict.comparisons)
    kept = shares(0.1, 0.6, 0.3, 0.4)
    for each in verdict.comparisons:
        assert each.difference == pytest.approx(
            float((kept[:, 1] - kept[:, NAMES.index(each.removal)]).mean())
        )


def test_ties_and_how_they_are_broken():
    verdict = recommend(NAMES, shares(0.1, 0.501, 0.5, 0.3))
    assert (verdict.kind, set(verdict.tied)) == ("tie", {"greyout", "layermask"})
    assert (verdict.recommended, verdict.cheapest) == ("layermask", "greyout")
    verdict = recommend(NAMES, shares(0.1, 0.501, 0.3, 0.5))
    assert (verdict.recommended, verdict.cheapest) == ("greyout", None)
    assert "the cheapest" in verdict.because
    verdict = recommend(("a", "b"), shares(0.5, 0.501))
    assert (verdict.recommended, verdict.kind) == (verdict.leader, "tie")


def test_the_order_of_removals_does_not_matter():
    kept = shares(0.1, 0.5, 0.49, 0.2, seed=4)
    a = recommend(NAMES, kept)
    b = recommend(NAMES[::-1], kept.flip(1))
    assert (a.recommended, a.leader, set(a.tied)) == (b.recommended, b.leader, set(b.tied))


def test_few_images_rule_nothing_out():
    for count in (1, 2, FEWEST - 1):
        verdict = recommend(NAMES, shares(0, 0, 1, 0, count=count, spread=0.01))
        assert (verdict.kind, len(verdict.tied), verdict.recommended) == ("few", 4, "")
        assert verdict.best == verdict.leader and verdict.cheapest is None and not verdict.because
        assert "no removal is recommended (too few images to say)" in verdict._repr_html_()
    assert recommend(NAMES, shares(0, 0, 1, 0, count=FEWEST, spread=0.01)).kind == "clear"
    assert recommend(("a",), shares(0.5)).kind == "clear"


def test_the_best_is_rarely_ruled_out():
    """Four equal removals: each is a best one, and may be ruled out in 1 of 20 audits at most."""
    lost = [
        len(NAMES) - len(recommend(NAMES, shares(*[0.5] * 4, count=40, seed=seed)).tied) for seed in range(50)
    ]
    assert sum(lost) / (50 * len(NAMES)) < 0.05


def test_the_number_of_images_needed():
    """By simulation: with so many images the two are told apart in 8 of 10 audits."""
    differences = torch.tensor([0.3, -0.1, 0.2, -0.2, 0.1, 0.0] * 5, dtype=torch.double)
    count = images_needed(differences, level=0.95)
    assert count is not None and count > 30
    random = torch.Generator().manual_seed(0)
    mean, spread = float(differences.mean()), float(differences.std())
    drawn = mean + spread * torch.randn(4000, count, generator=random, dtype=torch.double)
    low = drawn.mean(1) - 1.96 * drawn.std(1) / count**0.5
    assert float((low > 0).double().mean()) == pytest.approx(0.8, abs=0.03)
    assert images_needed(torch.zeros(30), 0.95) is None
    assert images_needed(-differences, 0.95) is None
    assert images_needed(torch.tensor([1e-6, 0.5, -0.5]).double(), 0.95) is None


# Parts


def answers(predicted: Tensor, removals=("layermask", "greyout")) -> SegmentAnswers:
    count, _, segmentations, stages = predicted.shape
    shares, whole = torch.arange(stages).double() / (stages - 1), predicted[:, :1, :1, 0]
    return SegmentAnswers(
        [str(number) for number in range(count)],
        list(removals),
        [(f"grid:{number}", "random", "random") for number in range(segmentations)],
        Predictions(predicted, shares, whole[:, 0, 0], whole.expand(predicted.shape[:3])),
        torch.full(predicted.shape, 0.5),
    )


def test_mistaken_classes_by_a_slow_twin():
    random = torch.Generator().manual_seed(0)
    predicted = torch.randint(30, (50, 2, 2, 11), generator=random)
    predicted[..., 0] = predicted[:, :1, :1, 0]
    predicted[:20, 1, :, 4] = 7
    predicted[:10, 1, 0, 6] = 29
    predicted[:30, 1, :, 8] = 3  # beyond what is looked at
    found = mistaken_for(answers(predicted), "greyout")
    assert [each.label for each in found][:1] == [7]
    assert 3 not in [each.label for each in found[:1]]
    for each in found:
        hits = [
            [int(predicted[i, 1, s, k]) == each.label for s in (0, 1) for k in (4, 5, 6)] for i in range(50)
        ]
        assert each.count == sum(map(sum, hits)) and each.images == sum(map(any, hits))
        assert each.share == pytest.approx(each.count / 300)
        usual = sum(int(predicted[i, 0, 0, 0]) == each.label for i in range(50)) / 50
        assert each.excess == pytest.approx(each.share - usual) and 0 < each.low <= each.excess <= each.high


def test_chance_is_rarely_mistaken():
    """Answers drawn evenly from many classes: hardly any stands out."""
    predicted = torch.randint(500, (60, 1, 1, 11), generator=torch.Generator().manual_seed(1))
    assert len(mistaken_for(answers(predicted, ["greyout"]), "greyout")) <= 3


def test_rows_in_any_order_give_the_same_answers(found):
    rows, _ = read_results(found.folder / "segments")
    places = np.random.default_rng(0).permutation(len(rows["image"]))
    images = list(dict.fromkeys(rows["image"].tolist()))
    a = read_answers(rows)
    b = read_answers({name: values[places] for name, values in rows.items()})
    order = [b.images.index(image) for image in images]
    columns = [b.removals.index(name) for name in a.removals]
    assert torch.equal(a.predicted, b.predicted[order][:, columns])
    with pytest.raises(InputError, match="run the experiment again"):
        read_answers({name: values[1:] for name, values in rows.items()})


def test_who_shows_what_is_hidden():
    predicted = torch.zeros(5, 2, 1, 11, dtype=torch.int64)
    predicted[3, 1, 0, 10] = 2
    found = answers(predicted, ("own", "cheat"))
    assert [shows_hidden(name, found) for name in ("own", "cheat")] == [False, True]
    for name, entry in REMOVALS.items():
        assert shows_hidden(name, answers(predicted[:, :1], [name])) == entry.reads_hidden


def test_classes_of_imagenet():
    assert are_imagenet(imagenet()) and are_imagenet([name.upper() for name in imagenet()])
    assert not are_imagenet(imagenet()[::-1]) and not are_imagenet(numbered(1000)) and not are_imagenet(["a"])


def test_samples_are_those_on_which_removals_differ():
    predicted = torch.zeros(12, 2, 1, 11, dtype=torch.int64)
    predicted[4, 1, 0, 5] = predicted[9, 1, 0, 5] = 3  # lost under one
    predicted[2, :, 0, 5] = 3  # lost under both
    chosen = choose(answers(predicted), ("layermask", "greyout"), seed=0)
    assert chosen.place == 5 and chosen.differing == [4, 9]  # and none on which both agree
    assert not set(chosen.drawn) & set(chosen.differing) and len(chosen.drawn) == 2
    chosen = choose(answers(predicted[:1]), ("layermask",), seed=0)
    assert (chosen.differing, chosen.drawn) == ([], [0])


def test_samples_say_what_the_model_says(found, data):
    """Asked again under the mask that the picture shows."""
    loaded = biased()
    samples = {sample.name: sample for sample in open_source(data)}
    for each in found.record["samples"]:
        x = SMALL(samples[each["image"]].load_image())
        visible = _visible(Grid(8)(SMALL.picture(x)), samples[each["image"]], "grid:8", each["hidden"], 0)
        assert float(visible.double().mean()) == 0.5 == each["hidden"]
        for name in THREE:
            chances = removal(name, loaded.model, SMALL)(x, visible).detach().softmax(1)[0]
            assert each["answers"][name]["class"] == int(chances.argmax())
            assert each["answers"][name]["confidence"] == pytest.approx(float(chances.max()), abs=1e-5)


# The page


class Tags(HTMLParser):
    """Whether tags close, and what pictures and drawings say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.drawings, self.levels = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes)
        if tag == "svg":
            self.drawings.append(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_says_what_it_shows(found, text):
    tags = Tags(text)
    assert tags.levels[0] == 1 and all(b - a <= 1 for a, b in zip(tags.levels, tags.levels[1:], strict=False))
    shown = len(found.record["samples"]) * (1 + len(found.record["removals"]))
    assert len(tags.images) == shown and all(each["alt"] for each in tags.images)
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in tags.drawings)
    assert words.headline(found.record) in text and len(text) < 3_000_000
    assert not re.search(r"\d %", text)


def test_nothing_comes_from_elsewhere_or_breaks_out(text):
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|<link|<iframe|<script", text)
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', text)) == {"data:"}
    assert "@@{" not in text.replace("@@{title}", "")
    assert EVIL not in text and "&lt;/style&gt;" in text


def test_drawings_share_no_ids_and_refer_to_their_own(text):
    ids = re.findall(r' id="([^"]+)"', text)
    uses = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert len(ids) == len(set(ids)) and uses and set(uses) <= set(ids)


def test_the_numbers_of_the_page_are_in_the_record(found, text):
    text = plain(text)
    for name, each in found.record["removals"].items():
        assert percent(each["areas"]["unchanged"]["value"]) in text, name
        assert f"{each['areas']['class-entropy']['value']:.3f}" in text
    for each in found.record["shape"]["removals"].values():
        assert percent(each["difference"]["value"]) in text
    for each in found.record["linearity"]["patches"]["8"].values():
        assert f"{each['cosine']['value']:.3f}" in text


@pytest.mark.parametrize("kind", ["clear", "tie", "few"])
def test_every_kind_of_verdict_has_words(found, kind, text):
    means = {"clear": (0.1, 0.6, 0.3), "tie": (0.5, 0.501, 0.1), "few": (0.1, 0.2, 0.3)}[kind]
    count = 10 if kind == "few" else 60
    verdict = recommend(THREE, shares(*means, count=count))
    assert verdict.kind == kind
    record = json.loads(json.dumps({**found.record, "images": count}))
    record["verdict"] = {**dataclasses.asdict(verdict), "same_when_whole": count}
    record["removals"][verdict.best]["differences"] = {}
    for name in set(THREE) - {verdict.recommended}:
        record["removals"][name]["differences"] = found.record["removals"]["greyout"]["differences"]
    lines = [words.headline(record), *words.reasons(record), *words.remarks(record)]
    assert all(line[-1] in ".:" or line == lines[0] for line in lines) and "  " not in "".join(lines)
    record["samples"] = []
    Tags(audit_page(record, []))


def test_numbers_in_words():
    assert (listed(["a"]), listed(list("ab")), listed(list("abc"))) == (
        "a",
        "a and b",
        "a, b and c",
    )
    assert (percent(0.98754, 4), percent(0.95, 4), percent(0.5, 0)) == (
        "98.754 %",
        "95 %",
        "50 %",
    )
    assert (points(0.1234), points(-0.1), points(-1e-9)) == ("+12.3", "−10.0", "0.0")
    assert [rounded(n) for n in (21, 187, 1949, 99_999)] == ["21", "190", "1,900", "100,000"]


# The command

MODULE = """
from test_audit import biased
"""


def test_the_command(data, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    arguments = ["planted:biased", "--data", data, "--removals", "layermask,greyout", "--segments", "grid:8"]
    arguments += ["--linearity-images", "1", "--limit", "21", "--device", "cpu", "--out", "there"]
    result = command("audit", *arguments)
    assert (
        "layermask, greyout: segments (21 images), shape (21 images), linearity (1 images)" in result.stdout
    )
    assert "Hide parts of images by layermask" in result.stdout
    assert "wrote there/audit.html and audit.json" in result.stdout
    assert "segments" in result.stderr and "21/21" in result.stderr
    assert not re.search(r"\d+/\d+ .*done by an earlier run", result.stderr)
    result = command("audit", *arguments, "--json", "--quiet")
    assert result.stdout == (tmp_path / "there" / "audit.json").read_text() and result.stderr == ""
    assert "give another --out, or --force" in refused("audit", *arguments, "--seed", "3", "--quiet")


def test_what_the_command_refuses(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown removal 'gray'" in refused("audit", "builtin", "--data", data, "--removals", "gray,zero")
    assert "does not exist: give a folder" in refused("audit", "builtin", "--data", "nowhere")
    assert not (tmp_path / "audit").exists()


def test_the_removals_compared_by_default_are_there():
    assert set(AUDIT_REMOVALS) <= set(REMOVALS)
