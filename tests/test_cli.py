"""The command line: what it prints and writes, that a run can be repeated, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from layermask.arguments import numbers
from layermask.cli import explain
from layermask.cli.app import app
from layermask.data.images import load_image, load_mask
from layermask.errors import InputError
from layermask.explain.lime import Lime
from layermask.io.record import sha256
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.registry import removal
from layermask.segment.labels import restore_segments
from layermask.studies.hidden import outline_hint
from layermask.zoo import load
from layermask.zoo.preprocessing import Preprocessing

QUICK = ["--samples", "34", "--segments", "grid:56", "--device", "cpu"]


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def refused(*arguments: object, status: int = 2) -> str:
    """Run a command that has to fail, and return its one line."""
    result = run(*arguments, status=status)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("layermask: ")
    return lines[0].removeprefix("layermask: ")


@pytest.fixture
def mask(tmp_path) -> Path:
    picture = Image.new("L", (451, 300))
    ImageDraw.Draw(picture).ellipse((120, 20, 330, 280), fill=255)
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture(scope="module")
def explained(photograph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "new"
    return folder, run("explain", photograph, "--out", folder, *QUICK)


# explain


def test_explain_prints_the_predictions_and_what_it_wrote(explained):
    folder, result = explained
    assert "38.6 %  tiger cat" in result.stdout
    assert "tiger cat: layermask R² " in result.stdout
    assert "102/102" in result.stderr  # one bar over three removals
    written = f"wrote {folder / 'chelsea_explain.png'} and {folder / 'chelsea_explain.json'}"
    assert written in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["chelsea_explain.json", "chelsea_explain.png"]
    assert load_image(folder / "chelsea_explain.png").width > 1000


def test_the_record_is_complete(explained, photograph):
    record = json.loads((explained[0] / "chelsea_explain.json").read_text())
    assert record["image"] == {"file": "chelsea.jpg", "size": [451, 300], "sha256": sha256(photograph)}
    assert {"layermask", "torch", "timm", "python"} <= set(record["versions"])
    assert [target["class"] for target in record["targets"]] == [282, 285]
    assert record["predictions"][0]["label"] == "tiger cat"
    assert list(record["removals"]) == ["layermask", "greyout", "blackout"]
    for found in record["removals"].values():
        assert np.shape(found["scores"]) == (2, 16)
        assert np.shape(found["r2"]) == np.shape(found["intercept"]) == np.shape(found["prediction"]) == (2,)
    assert record["segments"]["count"] == 16


def test_a_run_can_be_repeated_from_its_record(explained, photograph):
    """Only the JSON file and the picture are used."""
    record = json.loads((explained[0] / "chelsea_explain.json").read_text())
    loaded = load(record["model"]["name"])
    preprocessing = Preprocessing.restore(record["model"]["preprocessing"])
    x = preprocessing(load_image(photograph))
    targets = [target["class"] for target in record["targets"]]
    for name, stored in record["removals"].items():
        explainer = Lime(removal(name, loaded.model, preprocessing), **record["settings"])
        found = explainer.attribute(x, targets, restore_segments(record["segments"]))
        np.testing.assert_allclose(found.scores, stored["scores"], atol=1e-6)
        np.testing.assert_allclose(found.r2, stored["r2"], atol=1e-5)


def test_explain_asks_for_masks_until_the_scores_are_settled(photograph, tmp_path):
    few = ["--segments", "grid:112", "--device", "cpu", "--against", "none", "--target", "tiger cat"]
    result = run("explain", photograph, "--out", tmp_path, *few, "--samples", 600)
    record = json.loads((tmp_path / "chelsea_explain.json").read_text())
    found = record["removals"]["layermask"]
    assert record["settings"]["precision"] == 0.8 and found["settled"] is True
    assert found["n_samples"] == 256 and found["reliability"][0] >= 0.8
    assert "masks: layermask 256 (settled)" in result.stdout
    run("explain", photograph, "--out", tmp_path, *few, "--samples", 34, "--precision", 1)
    found = json.loads((tmp_path / "chelsea_explain.json").read_text())["removals"]["layermask"]
    assert found["n_samples"] == 34 and found["settled"] is False


def test_the_same_run_writes_the_same_bytes(explained, photograph, tmp_path):
    run("explain", photograph, "--out", tmp_path, *QUICK)
    for path in explained[0].iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_options_reach_the_run(photograph, tmp_path, monkeypatch):
    labels = np.zeros((300, 451), np.int64)
    labels[:, 200:], labels[150:, 200:] = 70, 90
    np.save(tmp_path / "labels.npy", labels)
    arguments = [
        "--segments",
        tmp_path / "labels.npy",
        "--target",
        "lynx",
        "--target",
        "7",
        "--against",
        "none",
    ]
    result = run(
        "explain",
        photograph,
        *arguments,
        "--samples",
        "8",
        "--seed",
        "4",
        "--batch-size",
        "3",
        "--json",
        "--out",
        tmp_path,
    )
    record = json.loads(result.stdout)
    assert [target["label"] for target in record["targets"]] == ["lynx", "cock"]
    assert list(record["removals"]) == ["layermask"]
    assert [record["settings"][key] for key in ("n_samples", "seed", "perturbations_per_eval")] == [8, 4, 3]
    assert record["segments"]["count"] == 3
    assert result.stdout == (tmp_path / "chelsea_explain.json").read_text()


@pytest.mark.parametrize("segments", ["slic", "quickshift:6"])
def test_superpixels(photograph, tmp_path, segments):
    run("explain", photograph, "--segments", segments, "--samples", "3", "--against", "", "--out", tmp_path)
    record = json.loads((tmp_path / "chelsea_explain.json").read_text())
    assert record["segments"]["count"] > 10


def test_quiet_prints_nothing(photograph, tmp_path):
    result = run("explain", photograph, "--quiet", "--against", "none", "--out", tmp_path, *QUICK)
    assert result.output == ""
    assert len(list(tmp_path.iterdir())) == 2


OWN = """
import layermask
import torch
def five():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 5, 9, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers).train()
def half():
    return layermask.zoo.Loaded(five().half(), layermask.zoo.Preprocessing(), (), "half")
def double():
    return layermask.zoo.Loaded(five().double(), layermask.zoo.Preprocessing(), (), "double")
def bare_half():
    return five().half()
def unknown_op():
    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.renorm(x, 2, 0, 1e9).mean((2, 3))
    return Net()
def not_finite():
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * float("nan")
    return Net()
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_cli_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_cli_code", raising=False)


def test_a_model_of_ones_own_with_few_classes(own_code, photograph, tmp_path):
    result = run("explain", photograph, "--model", "own_cli_code:five", *QUICK)
    assert "class 4" in result.stdout
    assert (tmp_path / "chelsea_explain.png").exists()


# predict


DEFAULTS = ("layermask", "greyout", "blackout")


def visible_share(mask: Path) -> torch.Tensor:
    return load("builtin").preprocessing.mask(load_mask(mask)).float().mean()


def test_predict(photograph, mask, tmp_path):
    result = run("predict", photograph, "--mask", mask, "--out", tmp_path / "out")
    blocks = result.stdout.split("\n")
    assert blocks[0] == "chelsea.jpg, builtin, 62.6% visible"
    for name in ("whole image", *DEFAULTS):
        assert name in blocks
    record = json.loads((tmp_path / "out" / "chelsea_predict.json").read_text())
    assert list(record["answers"]) == ["whole image", *DEFAULTS]
    share = record["mask"].pop("visible")
    assert record["mask"] == {"file": "mask.png", "sha256": sha256(mask), "invert": False}
    assert share == pytest.approx(float(visible_share(mask)))
    loaded = load("builtin")
    x = loaded.preprocessing(load_image(photograph))
    visible = loaded.preprocessing.mask(load_mask(mask))
    for name in DEFAULTS:
        with torch.no_grad():
            want = removal(name, loaded.model, loaded.preprocessing)(x, visible).softmax(1)[0]
        for entry in record["answers"][name]:
            assert entry["probability"] == pytest.approx(float(want[entry["class"]]), abs=1e-5)
    assert load_image(tmp_path / "out" / "chelsea_predict.png").width > 1000


def test_an_all_visible_mask_gives_the_plain_answers(photograph, tmp_path):
    Image.new("1", (451, 300), 1).save(tmp_path / "white.png")
    record = json.loads(
        run("predict", photograph, "--mask", tmp_path / "white.png", "--out", tmp_path, "--json").stdout
    )
    for answer in record["answers"].values():
        assert [entry["class"] for entry in answer] == [entry["class"] for entry in record["predictions"]]


def test_invert_is_the_inverted_mask(photograph, mask, tmp_path):
    load_mask(mask).point(lambda level: 255 - level).save(tmp_path / "inverted.png")
    one = run("predict", photograph, "--mask", mask, "--invert", "--out", tmp_path, "--json").stdout
    other = run(
        "predict", photograph, "--mask", tmp_path / "inverted.png", "--out", tmp_path, "--json"
    ).stdout
    assert json.loads(one)["answers"] == json.loads(other)["answers"]


# models, help


def test_models():
    assert run("models", "resnet18").stdout.splitlines()[0] == "torchvision/resnet18"
    assert run("models", "builtin").stdout == "builtin\n"
    assert "no model name matches 'zzz'" in refused("models", "zzz")


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from layermask.cli import main; sys.argv = ['layermask', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'timm', 'torchvision', 'transformers', 'matplotlib', 'skimage', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "explain" in result.stdout and "predict" in result.stdout and "models" in result.stdout
    assert time.monotonic() - start < 10  # 3 s on an idle machine: benchmarks/ measures it
    assert run("--version").stdout.startswith("layermask ")


# Failures: one line, a status, nothing lost


def test_bad_images(tmp_path):
    assert "does not exist" in refused("explain", tmp_path / "no.png", "--out", tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    assert "not an image that Pillow can read" in refused("explain", tmp_path / "text.jpg", "--out", tmp_path)
    assert "does not exist" in refused(
        "predict", tmp_path / "no.png", "--mask", tmp_path / "no.png", "--out", tmp_path
    )


BAD_OPTIONS = {
    ("--model", "resnt50"): "unknown model 'resnt50' (nearest: timm/resnet50",
    ("--model", "timm/resnet50"): "the hub cannot be reached",
    ("--weights", "no.pth"): "weights no.pth does not exist",
    ("--segments", "grit"): "unknown segments 'grit'",
    ("--segments", "no.npy"): "label map no.npy does not exist",
    ("--segments", "grid:500"): "give one segment for the whole picture",
    ("--target", "tigr cat"): "no class 'tigr cat' (nearest: tiger cat",
    ("--target", "1000"): "outside the model's classes, 0 to 999",
    ("--against", "grayout"): "unknown removal 'grayout'",
    ("--device", "abacus"): "device 'abacus' is not there",
}


@pytest.mark.parametrize("option", BAD_OPTIONS, ids=" ".join)
def test_bad_options(photograph, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    result = run("explain", photograph, *option, *QUICK[:2], status=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("layermask: ")
    assert BAD_OPTIONS[option] in lines[0]
    assert not list(tmp_path.iterdir())


def test_options_are_taken_by_their_old_names(photograph, tmp_path):
    new = ["--n-samples=20", "--removals", "layermask,greyout", "--segments", "grid:112"]
    old = ["--samples", "20", "--against=greyout", "--segments", "grid:112"]
    records = []
    for options in (new, old):
        out = tmp_path / options[0].strip("-")
        run("explain", photograph, *options, "--out", out, "--device", "cpu")
        records.append(json.loads((out / "chelsea_explain.json").read_text()))
    assert records[0]["request"] == records[1]["request"] and records[0]["settings"]["n_samples"] == 20
    assert list(records[0]["removals"]) == ["layermask", "greyout"]
    for command in (["explain"], ["predict"], ["evaluate", "operators"]):
        text = run(*command, "--help").output
        assert "--samples" not in text and "--against" not in text and "--removals" in text
    assert "--n-samples" in run("evaluate", "operators", "--help").output
    assert refused("explain", photograph, "--removals", " ,").startswith("--removals ' ,' names nothing")
    only = ["explain", photograph, "--removals", "greyout", *QUICK, "--out", tmp_path]
    run(*only)
    assert list(json.loads((tmp_path / "chelsea_explain.json").read_text())["removals"]) == ["greyout"]


def test_unknown_segments_are_refused_before_the_model_is_loaded(photograph, monkeypatch, tmp_path):
    monkeypatch.setattr("layermask.zoo.load", None)
    said = refused("explain", photograph, "--segments", "slick:50", "--out", tmp_path)
    assert said.startswith("unknown segments 'slick'")


@pytest.mark.parametrize("command", [["audit", "builtin"], ["evaluate", "segments"]])
def test_a_missing_package_is_named_before_anything_is_read(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(*command, "--data", tmp_path / "none", "--out", tmp_path)
    assert said.startswith("this needs the package pyarrow, which is not installed: pip install")


@pytest.mark.parametrize(
    ("chances", "output", "valid", "found"),
    [
        ([0.9, 0.08], "probability", None, [7]),
        ([0.9, 0.1], "probability", None, None),
        ([0.9, 0.004], "sigmoid", None, [7]),
        ([9.0, 0.1], "logit", None, None),  # differences of logits say nothing of that kind
        ([0.9, 0.08], "probability", torch.ones(1), None),
        ([0.9], "sigmoid", None, None),
        ([], "probability", None, None),
    ],
)
def test_a_second_class_is_explained_where_it_is_a_contender(chances, output, valid, found):
    ranking = list(zip([7, 3], chances, strict=False))
    image = SimpleNamespace(predictions=ranking, output=output, valid=valid)
    assert explain._contenders(image) == found


def test_usage_errors_have_status_2(photograph):
    run("explain", status=2)
    run("explain", photograph, "--samples", "0", status=2)
    run("predict", photograph, status=2)


def test_a_mask_of_the_size_of_the_models_input(photograph, tmp_path, builtin):
    pixels = np.zeros((224, 224), np.uint8)
    pixels[:50, 100:] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    run(
        "predict",
        photograph,
        "--mask",
        tmp_path / "m.png",
        "--out",
        tmp_path,
        "--against",
        "none",
        *["--device", "cpu"],
    )
    record = json.loads((tmp_path / "chelsea_predict.json").read_text())
    assert record["mask"]["visible"] == pytest.approx(50 * 124 / 224**2)
    x, visible = builtin.preprocessing(photograph), torch.from_numpy(pixels > 0)[None, None]
    with torch.no_grad():
        chances = LayerMasking(builtin.model)(x, visible).softmax(1)[0]
    for entry in record["answers"]["layermask"]:
        assert entry["probability"] == pytest.approx(float(chances[entry["class"]]), rel=1e-4)


def test_a_hint_that_the_outline_is_hidden_too():
    visible = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    visible[..., 10:30, 10:30] = True
    assert outline_hint(visible).startswith(
        "one region of 75% of the picture is hidden, and under layer masking"
    )
    assert outline_hint(~visible) == ""  # 25 % are hidden
    assert outline_hint(torch.arange(40 * 40).reshape(1, 1, 40, 40) % 40 // 5 % 2 == 0) == ""  # stripes
    assert outline_hint(torch.ones(1, 1, 4, 4, dtype=torch.bool)) == ""


def test_bad_masks(photograph, mask, tmp_path):
    assert "grey values" in refused("predict", photograph, "--mask", photograph, "--out", tmp_path / "o")
    corner = np.zeros((300, 451), np.uint8)
    corner[:4, :4] = 255  # outside the centre crop
    Image.fromarray(corner).save(tmp_path / "corner.png")
    assert "lies outside the 224x224 pixels that the model takes" in refused(
        "predict", photograph, "--mask", tmp_path / "corner.png", "--out", tmp_path / "o"
    )
    Image.new("1", (300, 300), 1).save(tmp_path / "square.png")
    assert "is 300x300 and the image 451x300" in refused(
        "predict", photograph, "--mask", tmp_path / "square.png", "--out", tmp_path / "o"
    )
    Image.new("1", (451, 300)).save(tmp_path / "black.png")
    assert "hides all that the model sees" in refused(
        "predict", photograph, "--mask", tmp_path / "black.png", "--out", tmp_path / "o"
    )
    assert not list((tmp_path / "o").iterdir())


def test_an_output_folder_that_cannot_be_written(photograph, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("layermask.zoo.load", None)  # found out before the model is loaded
    message = refused("explain", photograph, "--out", tmp_path / "file")
    assert message == f"cannot write in the folder {tmp_path / 'file'}: File exists: give another --out"


LONGEST = 255  # bytes of a name, on most file systems


def named_with(photograph: Path, folder: Path, length: int) -> Path:
    """Copy the photograph under a name of so many letters and .jpg."""
    path = folder / f"{'x' * length}.jpg"
    path.write_bytes(photograph.read_bytes())
    return path


@pytest.fixture
def commands(own_code, mask) -> dict[str, list[object]]:
    """The options of each command that names its files by the picture."""
    own: list[object] = ["--model", "own_cli_code:five"]
    return {
        "explain": [*own, *QUICK, "--against", "none", "--curves"],
        "predict": [*own, "--mask", mask, "--against", "none"],
        "compare": own,
        "segments": ["--segments", "grid:56"],
    }


@pytest.mark.skipif(os.name == "nt", reason="there, paths are short")
@pytest.mark.parametrize("command", ["explain", "predict", "compare", "segments"])
def test_names_of_files_may_be_as_long_as_names_can_be(photograph, tmp_path, commands, command):
    longest = LONGEST - len(f"_{command}.json")
    run(command, named_with(photograph, tmp_path, longest), *commands[command], "--out", tmp_path / "out")
    assert (tmp_path / "out" / f"{'x' * longest}_{command}.png").exists()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="there, paths are short")
@pytest.mark.parametrize("command", ["explain", "predict", "compare", "segments"])
def test_names_that_would_be_too_long_are_refused_before_the_work(
    photograph, tmp_path, commands, command, monkeypatch
):
    monkeypatch.setattr("layermask.zoo.load", None)
    monkeypatch.setattr("layermask.segment.presets.segmented", None)
    picture = named_with(photograph, tmp_path, LONGEST - 4)
    message = refused(command, photograph, picture, *commands[command], "--out", tmp_path / "out")
    assert f"xx_{command}." in message
    assert message.endswith("File name too long: give another --out, or the picture another name")


REPORTS = {
    "x" * 252 + ".html": "File name too long",
    "x" * 300: "File name too long",
    "file/page.html": "File exists",
    "file": "File exists",
    "folder.html": "there is a folder of that name",
    "full": "there is a folder of that name",
}


@pytest.mark.skipif(os.name == "nt", reason="there, paths are short")
@pytest.mark.parametrize("report", REPORTS, ids=lambda name: name[-12:])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    photograph, tmp_path, monkeypatch, report
):
    (tmp_path / "file").touch()
    for name in ("folder.html", "full/chelsea.html"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr("layermask.zoo.load", None)
    message = refused("explain", photograph, "--report", tmp_path / report, "--out", tmp_path / "out")
    assert REPORTS[report] in message and "give another --report" in message


def test_a_report_of_a_long_name(own_code, photograph, tmp_path):
    page = tmp_path / f"{'x' * (LONGEST - 5)}.html"
    run("explain", photograph, "--model", "own_cli_code:five", *QUICK, "--report", page, "--out", tmp_path)
    assert page.read_text().startswith("<!DOCTYPE html>")


SEEDED = ["explain", "compare", "audit", *(f"evaluate {name}" for name in ("segments", "lime", "operators"))]


@pytest.mark.parametrize("command", [*SEEDED, "evaluate linearity", "evaluate shape"])
def test_every_command_takes_the_same_seeds(command):
    place = [*command.split(), "model" if command == "audit" else "--model=none"]
    assert f"0<=x<={2**32 - 1}" in run(*command.split(), "--help").stdout
    for seed in (-1, 2**32, -(2**32)):
        assert "--seed" in run(*place, "--seed", seed, status=2).stderr
    assert numbers.seed("seed", 2**32 - 1) == 2**32 - 1
    with pytest.raises(InputError):
        numbers.seed("seed", 2**32)


@pytest.mark.parametrize("name", ["half", "double", "bare_half"])
def test_a_model_of_another_precision_is_told_so(own_code, photograph, name):
    message = refused("explain", photograph, "--model", f"own_cli_code:{name}", *QUICK)
    kind = "float64" if name == "double" else "float16"
    advice = f"its weights are torch.{kind} and pictures torch.float32, return it as model.float()"
    assert message.endswith(advice) and "layermask.zoo.Loaded" not in message


SINGLE = ("--output", "softmax")  # what the models' numbers are, which nothing shows


def test_an_op_without_a_rule_is_named(own_code, photograph, tmp_path):
    result = run("explain", photograph, "--model", "own_cli_code:unknown_op", *QUICK, *SINGLE, status=1)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("layermask: torch.renorm has no rule")
    assert not list(tmp_path.glob("*.png"))


def test_scores_that_are_not_finite(own_code, photograph):
    assert "scores are not finite for 1 of 1 masks" in refused(
        "explain", photograph, "--model", "own_cli_code:not_finite", *QUICK, *SINGLE
    )


def test_what_nothing_shows_is_asked_about_in_one_line(own_code, photograph):
    arguments = ("explain", photograph, "--model", "own_cli_code:five", *QUICK)
    told = run(*arguments).stderr.strip().splitlines()
    (words,) = [line for line in told if "nothing shows" in line]
    assert words.startswith("layermask: warning: ") and "numbers are, so softmax is taken" in words
    assert "nothing shows" not in run(*arguments, *SINGLE).stderr


def test_other_errors_keep_their_traceback_for_debugging(own_code, photograph, monkeypatch):
    monkeypatch.setattr("layermask.io.figure.png", lambda figure: 1 / 0)
    result = run("explain", photograph, "--model", "own_cli_code:five", *QUICK, status=1)
    assert "layermask: ZeroDivisionError: division by zero (LAYERMASK_DEBUG=1 shows where)" in result.stderr
    monkeypatch.setenv("LAYERMASK_DEBUG", "1")
    result = CliRunner().invoke(app, ["explain", str(photograph), "--model", "own_cli_code:five", *QUICK])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_failed_run_leaves_older_files(own_code, photograph, tmp_path, monkeypatch):
    (tmp_path / "chelsea_explain.png").write_bytes(b"older")
    monkeypatch.setattr("layermask.cli.jobs.to_json", lambda record: 1 / 0)
    run("explain", photograph, "--model", "own_cli_code:five", *QUICK, status=1)
    assert (tmp_path / "chelsea_explain.png").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("chelsea")) == [
        "chelsea_explain.png"
    ]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_no_file(photograph, tmp_path):
    # A runner in the background may ignore Ctrl-C, and its children would, too.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", heeds + "from layermask.cli import main; main()"]
    arguments = ["explain", str(photograph), "--samples", "100000", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        while "%" not in (line := process.stdout.readline()):  # the predictions: the long work is under way
            assert line, process.stderr.read()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()  # or the test would wait for it
        error = process.stderr.read()
    assert error.splitlines()[-1] == "layermask: interrupted"
    assert "Traceback" not in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_error_to_print():
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['layermask', 'models']; from layermask.cli import main; main()",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == ""
