"""The command line over many pictures, with every method, and what it does when memory runs out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_cli import OWN, refused, run

from layermask.check import LAWS
from layermask.cli.jobs import find_jobs
from layermask.data.images import load_image
from layermask.errors import ImageError
from layermask.explain.registry import EXPLAINERS
from layermask.io.overlay import bordered_picture
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.painting import PixelFill
from layermask.removal.query import Halving
from layermask.segment.presets import SEGMENTERS
from layermask.zoo import load

QUICK = ["--samples", "12", "--segments", "grid:112", "--device", "cpu", "--against", "none"]


@pytest.fixture
def pictures(photograph, tmp_path, monkeypatch) -> Path:
    """Four pictures, two of them of one name, one within a folder; and files that are none."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    shutil.copy(photograph, folder / "a.jpg")
    picture = load_image(photograph)
    picture.rotate(180).save(folder / "b.png")
    picture.crop((0, 0, 200, 200)).save(folder / "b.webp")
    picture.crop((50, 0, 400, 300)).save(folder / "more" / "c.JPG")
    (folder / "notes.txt").write_text("no picture")
    (tmp_path / "own_many.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return folder


MODEL = ["--model", "own_many:five"]
SINGLE = ["--output", "softmax"]  # what its numbers are, which nothing shows
NAMES = ["a", "b_png", "b_webp", "more/c"]


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_folders_wildcards_and_files(pictures):
    assert [job.name for job in find_jobs([pictures])] == NAMES
    assert [job.name for job in find_jobs([pictures / "*.png", pictures / "a.jpg"])] == ["b", "a"]
    assert [job.name for job in find_jobs([pictures, pictures / "a.jpg"])] == NAMES  # once each
    with pytest.raises(ImageError, match="holds no pictures"):
        find_jobs(
            [
                pictures.parent / "in" / ".." / "in" / "more" / "..",
                (pictures / "empty").mkdir() or pictures / "empty",
            ]
        )
    with pytest.raises(ImageError, match=r"no file matches .*\*\.bmp"):
        find_jobs([pictures / "*.bmp"])


def test_explain_a_folder_and_go_on_where_it_stopped(pictures, tmp_path):
    out = tmp_path / "out"
    result = run("explain", pictures, *MODEL, *QUICK, "--out", out)
    assert files(out) == sorted(f"{n}_explain.{e}" for n in NAMES for e in ("json", "png"))
    assert "4/4" in result.stderr
    before = {name: (out / name).read_bytes() for name in files(out)}
    for name in ("a_explain.json", "b_png_explain.png"):
        (out / name).unlink()
    (out / "more/c_explain.json").write_text("{ half a rec")
    (pictures / "b.webp").write_bytes((pictures / "a.jpg").read_bytes())  # another picture by now
    result = run("explain", pictures, *MODEL, *QUICK, "--out", out)
    assert "0 of 4" not in result.stderr and "4/4" in result.stderr
    after = {name: (out / name).read_bytes() for name in files(out)}
    assert [name for name in before if before[name] != after[name]] == [
        "b_webp_explain.json",
        "b_webp_explain.png",
    ]
    result = run("explain", pictures, *MODEL, *QUICK, "--out", out)
    assert "4 of 4 pictures were done by an earlier run" in result.stderr
    result = run("explain", pictures, *MODEL, *QUICK, "--seed", "1", "--out", out)  # another request
    assert "earlier run" not in result.stderr


def test_a_picture_that_cannot_be_read_does_not_end_the_run(pictures, tmp_path):
    (pictures / "d.png").write_text("no picture")
    result = run("explain", pictures, *MODEL, *QUICK, "--out", tmp_path / "out", status=2)
    assert "d.png is not an image that Pillow can read" in result.stderr
    assert "1 of 5 pictures failed" in result.stderr
    assert len(files(tmp_path / "out")) == 8


def test_json_lines_and_quiet(pictures, tmp_path):
    result = run("explain", pictures, *MODEL, *QUICK, "--json", "--quiet", "--out", tmp_path / "out")
    assert result.stderr == ""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["image"]["file"] for record in records] == ["a.jpg", "b.png", "b.webp", "c.JPG"]


def test_predict_many_with_one_mask_or_a_folder_of_them(pictures, tmp_path):
    masks = tmp_path / "masks"
    (masks / "more").mkdir(parents=True)
    for name, source in zip(NAMES, ("a.jpg", "b.png", "b.webp", "more/c.JPG"), strict=True):
        picture = Image.new("L", load_image(pictures / source).size)
        ImageDraw.Draw(picture).rectangle((20, 20, 150, 150), fill=255)
        picture.save(masks / f"{name}.png")
    result = run("predict", pictures, *MODEL, "--mask", masks, "--out", tmp_path / "out", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["mask"]["file"] for record in records] == ["a.png", "b_png.png", "b_webp.png", "c.png"]
    assert f"4 pictures are in {tmp_path / 'out'}, each as *_predict.png and .json" in result.stderr
    result = run("predict", pictures, *MODEL, "--mask", masks, "--out", tmp_path / "out")
    assert "4 of 4 pictures were done" in result.stderr
    (masks / "a.png").unlink()
    result = run("predict", pictures, *MODEL, "--mask", masks, "--out", tmp_path / "else", status=2)
    assert f"no mask for {pictures / 'a.jpg'}" in result.stderr


def test_compare_many(pictures, tmp_path):
    result = run("compare", pictures, *MODEL, "--out", tmp_path / "out")
    assert files(tmp_path / "out") == sorted(f"{n}_compare.{e}" for n in NAMES for e in ("json", "png"))
    result = run("compare", pictures, *MODEL, "--out", tmp_path / "out")
    assert "4 of 4 pictures were done" in result.stderr
    result = run("compare", pictures / "a.jpg", *MODEL, "--hide", "0.2", "--out", tmp_path / "out")
    assert "random 16×16 patches hidden" in result.stdout


def test_explain_under_a_removal_that_needs_the_segments(pictures, tmp_path):
    against = ["--against", "segment-mean,road"]
    run("explain", pictures / "a.jpg", *MODEL, *QUICK[:-2], *against, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "a_explain.json").read_text())
    assert list(record["removals"]) == ["layermask", "segment-mean", "road"]
    message = refused("explain", pictures / "a.jpg", *MODEL, *SINGLE, "--against", "tokendrop", "--json")
    assert "no tokens to drop" in message


# every method


@pytest.mark.parametrize("method", EXPLAINERS)
def test_every_method(pictures, tmp_path, method):
    samples = ["--samples", "40"] if "n_samples" in EXPLAINERS[method].__dataclass_fields__ else []
    result = run(
        "explain", pictures / "a.jpg", *MODEL, "--method", method, *samples, "--segments", "grid:75",
        "--out", tmp_path / "out", "--report", tmp_path / "page.html", "--curves",
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "a_explain.json").read_text())
    assert record["method"] == method and list(record["removals"]) == ["layermask", "greyout", "blackout"]
    for found in record["removals"].values():
        assert np.isfinite(found["scores"]).all() and found["n_samples"] > 0
    assert load_image(tmp_path / "out" / "a_explain.png").width > 800
    assert load_image(tmp_path / "out" / "a_curves.png").width > 800
    assert "<html" in (tmp_path / "page.html").read_text() and "page.html" in result.stdout
    if method in ("insertion", "deletion"):
        assert "layermask needs" in result.stdout


def test_reports_of_many(pictures, tmp_path):
    run("explain", pictures, *MODEL, *QUICK, "--out", tmp_path / "out", "--report", tmp_path / "pages")
    assert files(tmp_path / "pages") == [f"{name}.html" for name in NAMES]
    message = refused("explain", pictures, *MODEL, *QUICK, "--report", tmp_path / "page.html")
    assert "is one page for 4 pictures: give a folder" in message


BAD = {
    ("--method", "shap"): "unknown method 'shap': choose from",
    (
        "--method",
        "leave-one-out",
        "--samples",
        "50",
    ): "leave-one-out draws no samples, so it has no --n-samples: lime",
    ("--method", "keep-one", "--converge", "0.1"): "keep-one draws no samples, so it has no --converge",
    ("--method", "occlusion", "--precision", "0.9"): "occlusion draws no samples, so it has no --precision",
    ("--batch-size", "many"): "batch size 'many': give auto, or a whole number above 0",
    ("--batch-size", "0"): "batch size '0'",
    ("--segments", "grid:7x"): "'7x' is not a number",
    ("--method", "insertion", "--target", "1"): "keeps the model's prediction, class",
}


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_bad_options(pictures, tmp_path, options):
    result = run("explain", pictures / "a.jpg", *MODEL, *options, "--out", tmp_path / "out", status=2)
    assert BAD[options] in result.stderr.strip().splitlines()[-1]
    assert files(tmp_path / "out") == []


def test_too_few_samples_are_one_line(pictures, tmp_path):
    result = run(
        *("explain", pictures / "a.jpg", *MODEL, *SINGLE, "--samples", "20", "--against", "none"),
        *("--out", tmp_path / "o"),
    )
    lines = [line for line in result.stderr.splitlines() if "warning" in line]
    assert lines and all(
        line.startswith("layermask: warning: LIME: n_samples is 20 for 196") for line in lines
    )


# memory


class Hungry:
    """A removal that runs out of memory above so many masks."""

    def __init__(self, most: int):
        self.most, self.asked = most, []

    def __call__(self, images, visible):
        self.asked.append(len(visible))
        if len(visible) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return visible.flatten(1).double().cumsum(1)[:, -3:] + images.mean()


def test_batches_are_halved_until_they_fit():
    images, visible = torch.ones(1, 3, 4, 4), torch.rand(50, 1, 4, 4) < 0.5
    hungry, said = Hungry(13), []
    halving = Halving(hungry, said.append)
    assert torch.equal(halving(images, visible), Hungry(99)(images, visible))
    assert hungry.asked == [50, 25, 12, 12, 12, 12, 2]
    assert said == [f"out of memory: retrying with at most {n} masks per forward pass" for n in (25, 12)]
    many = torch.rand(50, 3, 4, 4)
    many = many / many.mean()
    assert halving(many, visible).shape == (50, 3) and hungry.asked[7:] == [12, 12, 12, 12, 2]
    with pytest.raises(torch.OutOfMemoryError):
        Halving(Hungry(0), said.append)(images, visible)
    with pytest.raises(RuntimeError, match="another"):
        Halving(lambda *_: (_ for _ in ()).throw(RuntimeError("another")), said.append)(images, visible)


def test_auto_says_that_it_halves(pictures, tmp_path, monkeypatch):
    from layermask.removal.layer_masking import LayerMasking

    forward = LayerMasking.forward

    def hungry(self, images, visible):
        if len(visible) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, visible)

    monkeypatch.setattr(LayerMasking, "forward", hungry)
    result = run("explain", pictures / "a.jpg", *MODEL, *QUICK, "--out", tmp_path / "out")
    assert "layermask: out of memory: retrying with at most 6 masks per forward pass" in result.stderr
    assert "retrying with at most 3 masks" in result.stderr
    result = run("explain", pictures / "a.jpg", *MODEL, *QUICK, "--batch-size", "32", status=1)
    assert "out of memory: give a smaller --batch-size, or auto" in result.stderr


# segments, models, check


def test_segments_lists_them():
    text = run("segments").stdout
    for name in (*SEGMENTERS, "boxes", "paper-slic", "label map"):
        assert name in text
    assert json.loads(run("segments", "--json").stdout)["segmenters"]["slic"]["n_segments"] == 100


def test_segments_writes_maps_that_explain_takes(pictures, tmp_path):
    out = tmp_path / "maps"
    result = run("segments", pictures, "--segments", "slic:30", "--out", out)
    assert "a.jpg:" in result.stdout and "4/4" in result.stderr
    assert "(30 were asked for; the segmenter decides)" in result.stdout
    assert f"wrote {out / 'a_segments.npy'} and {out / 'a_segments.png'}" in result.stdout
    labels = np.load(out / "a_segments.npy")
    assert labels.shape == (300, 451) and 15 < labels.max() < 60
    picture = np.array(load_image(out / "a_segments.png"))
    assert ((picture == (255, 230, 0)).all(-1)).mean() > 0.01
    plain = np.array(bordered_picture(load_image(pictures / "a.jpg"), torch.from_numpy(labels)))
    written = (picture != plain).any(-1)  # the numbers, each within reach of its segment's middle
    assert set(labels[written]) == set(range(labels.max() + 1))
    run(
        "explain", pictures / "a.jpg", *MODEL, *QUICK[:2], "--segments", out / "a_segments.npy",
        "--out", tmp_path / "out", "--samples", "200",
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "a_explain.json").read_text())
    assert record["segments"]["count"] <= labels.max() + 1


def test_models_and_check_as_json(pictures):
    assert json.loads(run("models", "resnet18", "--json").stdout)[0] == "torchvision/resnet18"
    record = json.loads(run("check", "own_many:five", "--json", "--size", "32").stdout)
    assert record["ok"] and len(record["laws"]) == len(LAWS) and record["missing"] == {}
    assert run("check", "own_many:five", "--quiet", "--size", "32").output == ""
    record = json.loads(run("check", "own_many:unknown_op", "--json", "--size", "32", status=1).stdout)
    assert not record["ok"] and "torch.renorm" in record["missing"]


def test_shell_completion_is_offered():
    assert "--install-completion" in run("--help").stdout


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The classes of the removal operators that are made from here on."""
    found: list[str] = []
    for cls in (LayerMasking, PixelFill):

        def init(self, *args, own=cls.__init__, **kwargs):
            found.append(type(self).__name__)
            own(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", init)
    return found


def test_explain_makes_each_removal_once_for_all_pictures(pictures, tmp_path, made):
    against = ["--against", "greyout,segment-mean"]
    run("explain", pictures, *MODEL, *QUICK[:-2], *against, "--out", tmp_path / "out")
    assert sorted(made) == ["Greyout", "LayerMasking"] + 4 * ["SegmentMeanFill"]


def test_predict_makes_each_removal_once_for_all_pictures(pictures, tmp_path, made):
    masks = tmp_path / "masks"
    for name, source in zip(NAMES, ("a.jpg", "b.png", "b.webp", "more/c.JPG"), strict=True):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", load_image(pictures / source).size, 1).save(masks / f"{name}.png")
    run("predict", pictures, *MODEL, "--mask", masks, "--out", tmp_path / "out")
    assert sorted(made) == ["Blackout", "Greyout", "LayerMasking"]


def test_compare_makes_each_removal_once_for_all_pictures(pictures, tmp_path, made):
    (pictures / "b.png").unlink()
    shutil.rmtree(pictures / "more")
    run("compare", pictures, *MODEL, "--out", tmp_path / "out")
    assert made.count("SegmentMeanFill") == 2
    # the default, its steady form twice (adaptive has its own), and one without padding; and one for each
    # picture, to find the places
    assert made.count("LayerMasking") == 4 + 2
    others = [name for name in made if name not in ("SegmentMeanFill", "LayerMasking")]
    assert len(set(others)) > 8 and all(others.count(name) <= 2 for name in others)  # noise is of two kinds


@pytest.mark.slow
def test_memory_is_flat_over_many_pictures(tmp_path, photograph):
    """A process of its own; the first pictures fill the memory that is kept."""
    for number in range(40):
        load_image(photograph).rotate(number).save(tmp_path / f"{number}.png")
    program = f"""
import resource, sys
from layermask.cli import jobs
from layermask.cli.app import app
one, sizes = jobs.Session.one, []
def measured(self, *args):
    one(self, *args)
    sizes.append(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20)
jobs.Session.one = measured
try:
    app(["explain", {str(tmp_path)!r}, "--samples", "12", "--segments", "grid:112", "--device", "cpu",
         "--against", "none", "--quiet", "--out", {str(tmp_path / "out")!r}])
finally:
    print(max(sizes[5:20]), max(sizes[25:]))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    before, after = map(float, found.stdout.split())
    assert after < before + 50, "MiB"


# what an earlier run has left


def flipped(path: Path) -> None:
    text = path.read_text()
    place = text.index('"probability": 0.') + 18
    path.write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def other(path: Path) -> None:
    path.write_text("[5]")


DAMAGE = {
    "a number": flipped,
    "a picture": lambda path: cut(path.with_suffix(".png")),
    "a record": other,
    "end": cut,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_or_picture_is_said_and_done_again(pictures, tmp_path, damage):
    call = [
        "predict",
        pictures,
        *MODEL,
        "--mask",
        tmp_path / "m.png",
        "--against",
        "none",
        "--out",
        tmp_path / "o",
    ]
    for name in ("b.webp", "more/c.JPG"):
        (pictures / name).unlink()
    picture = load_image(pictures / "a.jpg")
    Image.new("1", picture.size, 1).save(tmp_path / "m.png")
    run(*call)
    before = {name: (tmp_path / "o" / name).read_bytes() for name in files(tmp_path / "o")}
    DAMAGE[damage](tmp_path / "o" / "a_predict.json")
    result = run(*call)
    assert "a_predict.json or its picture is damaged" in " ".join(result.stderr.split())
    assert "1 of 2 pictures were done by an earlier run" in result.stderr
    assert before == {name: (tmp_path / "o" / name).read_bytes() for name in files(tmp_path / "o")}


def test_another_engine_than_that_of_the_earlier_run_is_said(pictures, tmp_path, monkeypatch):
    from layermask.removal.layer_masking import LayerMasking

    for name in ("b.webp", "more/c.JPG"):
        (pictures / name).unlink()
    Image.new("1", load_image(pictures / "a.jpg").size, 1).save(tmp_path / "m.png")
    call = ["predict", pictures, *MODEL, "--mask", tmp_path / "m.png", "--against", "none", "--out", tmp_path]
    engine = "dense"
    monkeypatch.setattr(
        LayerMasking, "engine_used", property(lambda self: engine, lambda *_: None), raising=False
    )
    assert "the engine that answers" not in run(*call).stderr
    assert json.loads((tmp_path / "a_predict.json").read_text())["engine_used"] == "dense"
    (tmp_path / "b_predict.json").unlink()
    engine = "sparse"
    message = "the engine that answers here is sparse, and it was dense for the pictures done before"
    assert " ".join(run(*call).stderr.split()).count(message) == 1


def test_a_picture_without_a_mask_does_not_end_the_run(pictures, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("1", load_image(pictures / "a.jpg").size, 1).save(tmp_path / "masks" / "a.png")
    call = [
        "predict",
        pictures,
        *MODEL,
        "--mask",
        tmp_path / "masks",
        "--against",
        "none",
        "--out",
        tmp_path / "o",
    ]
    assert "3 of 4 pictures failed" in run(*call, status=2).stderr
    assert files(tmp_path / "o") == ["a_predict.json", "a_predict.png"]


# numbers and devices

HUGE = ["9" * 5000, str(2**63), str(-(2**63) - 1), "1e400", "nan", "1.5", "", "x"]
NUMBERS = [
    ("explain", "--samples"),
    ("explain", "--seed"),
    ("explain", "--converge"),
    ("explain", "--precision"),
    ("compare", "--seed"),
]
NUMBERS += [
    ("compare", "--hide"),
    ("explain", "--batch-size"),
    ("explain", "--segments"),
    ("compare", "--device"),
]


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_numbers_that_are_none_name_their_option(pictures, tmp_path, command, option):
    method = ["--method", "shapley"] if option == "--converge" else []
    for value in HUGE:
        value = f"grid:{value or '-'}" if option == "--segments" else value
        result = run(
            command, pictures / "a.jpg", *MODEL, *method, option, value, "--out", tmp_path / "o", status=2
        )
        said = "".join(result.stderr.split())
        assert option.lstrip("-") in said.replace("batchsize", "batch-size"), (value, result.stderr)


@pytest.mark.parametrize("device", ["hpu", "privateuseone", "meta", "cuda:99", "xpu", "cpu:-1", ""])
def test_devices_that_hold_no_pictures_are_refused(pictures, device):
    assert f"device '{device}' is not there" in refused("compare", pictures / "a.jpg", "--device", device)


def test_a_model_with_one_score_is_refused(pictures, tmp_path):
    (tmp_path / "own_one.py").write_text(OWN.replace("torch.nn.Conv2d(3, 5,", "torch.nn.Conv2d(3, 1,"))
    message = refused("explain", pictures / "a.jpg", "--model", "own_one:five", "--json")
    assert "one score for each picture" in message and "torch.cat" in message


@pytest.mark.parametrize("output", ["sigmoid", "logit"])
def test_one_score_is_explained_by_the_output_that_is_said(pictures, tmp_path, output):
    """Every number in the record and on the screen is the model's own."""
    (tmp_path / f"own_{output}.py").write_text(OWN.replace("torch.nn.Conv2d(3, 5,", "torch.nn.Conv2d(3, 1,"))
    common = ["--model", f"own_{output}:five", "--output", output, "--against", "greyout", "--out", tmp_path]
    result = run("explain", pictures / "a.jpg", *common, "--method", "leave-one-out", "--curves")
    record = json.loads((tmp_path / "a_explain.json").read_text())
    loaded = load(f"own_{output}:five")
    with torch.no_grad():
        raw = loaded.model(loaded.preprocessing(load_image(pictures / "a.jpg")))[0, 0]
    value = float(raw.sigmoid() if output == "sigmoid" else raw)
    shown = f"{100 * value:.1f} %" if output == "sigmoid" else f"{value:.3f}"
    key = "probability" if output == "sigmoid" else "logit"
    assert shown in result.stdout and record["settings"]["output"] == output
    for entries in (record["predictions"], record["targets"]):
        assert entries == [{"class": 0, "label": "class 0", key: pytest.approx(value, abs=1e-5)}]
    Image.new("L", (451, 300), 255).save(tmp_path / "all.png")
    result = run("predict", pictures / "a.jpg", *common, "--mask", tmp_path / "all.png")
    record = json.loads((tmp_path / "a_predict.json").read_text())
    assert result.stdout.count(shown) == 3 and record["answers"]["greyout"][0][key] == pytest.approx(
        value, abs=1e-5
    )


def test_outputs_that_are_none_are_refused(pictures):
    for command in ("explain", "predict --mask x.png"):
        first, *more = command.split()
        assert "--output" in refused(first, pictures / "a.jpg", *more, "--output", "percent")


DENSE = OWN.replace("torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()", "torch.nn.Identity()")


def test_a_region_of_a_segmenter(pictures, tmp_path):
    """The number is the mean probability over the polygon, in pixels of what the model sees."""
    (tmp_path / "own_dense.py").write_text(DENSE)
    loaded = load("own_dense:five")
    with torch.no_grad():
        maps = loaded.model(loaded.preprocessing(load_image(pictures / "a.jpg"))).softmax(1)
    assert maps.ndim == 4 and maps.shape[2:] == (27, 27)
    pixel, polygon = "pixel:3@100,50", "polygon:2@0,0,224,0,224,224,0,224"
    common = ["--model", "own_dense:five", "--against", "none", "--out", tmp_path, "--segments", "grid:112"]
    targets = ["--target", pixel, "--target", polygon, "--report", tmp_path / "a.html"]
    result = run("explain", pictures / "a.jpg", *common, "--method", "leave-one-out", *targets)
    record = json.loads((tmp_path / "a_explain.json").read_text())
    one, other = record["targets"]
    assert one["label"] == "3 over 1 pixels" and other["label"] == "2 over 50176 pixels"
    assert other["probability"] == pytest.approx(float(maps[0, 2].mean()), abs=1e-5)
    assert one["probability"] == pytest.approx(float(maps[0, 3, 6, 12]), abs=1e-5)  # rows of 8.3 pixels
    assert "3 over 1 pixels" in result.stdout and "3 over 1 pixels" in (tmp_path / "a.html").read_text()
    assert record["predictions"] == []
    wrong = refused("explain", pictures / "a.jpg", *common, "--quiet", "--target", "pixel:3@1,two")
    assert "give pixel:CLASS@X,Y" in wrong
