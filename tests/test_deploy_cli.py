"""`layermask export`: what it writes, what it says, and how it fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from test_deploy import IGNORED, made
from torch import nn
from typer.testing import CliRunner

from layermask import LayerMasking, deploy
from layermask.cli.app import app
from layermask.deploy import FORMATS
from layermask.zoo import Loaded, Preprocessing

pytestmark = pytest.mark.filterwarnings(*IGNORED)
OWN = "test_deploy_cli:small"


def small() -> Loaded:
    """A model of the user's own, found by its name."""
    labels = tuple("abcde")
    return Loaded(made("block"), Preprocessing(resize=(12, 12), crop=(12, 12)), labels, "small")


def tiny() -> Loaded:
    """A smaller one, where the answers are not the point."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    return Loaded(net, Preprocessing(resize=(12, 12), crop=(12, 12)), tuple("abcde"), "tiny")


TINY = "test_deploy_cli:tiny"


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def refused(*arguments: object, status: int = 2) -> str:
    result = run(*arguments, status=status)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("layermask: ")


@pytest.mark.parametrize("format", FORMATS)
def test_it_writes_a_file_that_answers_as_the_model(format: str, tmp_path: Path) -> None:
    for package in FORMATS[format].needs:
        pytest.importorskip(package)
    out = tmp_path / "new" / f"small.{format}"
    record = json.loads(run(OWN, "--out", out, "--json").stdout)
    assert record["bytes"] == out.stat().st_size
    assert record["format"] == format and record["images"] == ["N", 3, 12, 12]
    assert record["difference"] <= 1e-5
    images, visible = torch.randn(2, 3, 12, 12), torch.rand(2, 1, 12, 12) < 0.5
    assert deploy.difference(deploy.load(out), LayerMasking(made("block")), images, visible) <= 1e-5


@pytest.mark.skipif(os.name == "nt", reason="there, names are text")
@pytest.mark.parametrize("format", FORMATS)
def test_a_name_that_is_no_text(format: str, tmp_path: Path) -> None:
    for package in FORMATS[format].needs:
        pytest.importorskip(package)
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff." + format.encode()))
    assert f"m\\udcff.{format}: " in run(TINY, "--out", out).stdout
    assert out.exists()


NAMES = {"x" * 300 + ".onnx": "File name too long", "folder.pt2": "there is a folder of that name"}
NAMES |= {"file/m.pt2": "File exists"}


@pytest.mark.skipif(os.name == "nt", reason="there, paths are short")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[-10:])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("layermask.zoo.load", None)
    if name.endswith("onnx"):
        pytest.importorskip("onnx")
    message = refused(OWN, "--out", tmp_path / name)
    assert NAMES[name] in message and message.endswith(": give another --out")


class Words(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "words"


def words() -> Loaded:
    return Loaded(Words().eval(), Preprocessing(resize=(12, 12), crop=(12, 12)), (), "words")


def test_a_model_without_scores_is_refused(tmp_path: Path) -> None:
    message = refused("test_deploy_cli:words", "--out", tmp_path / "a.pt2")
    assert message == "model 'test_deploy_cli:words' answers with a str, which holds no tensor"


def test_a_long_name(tmp_path: Path) -> None:
    out = tmp_path / f"{'x' * 251}.pt2"
    run(TINY, "--out", out)
    assert out.exists()


def test_it_says_what_it_wrote(tmp_path: Path) -> None:
    text = run(TINY, "--out", tmp_path / "a.pt2", "--size", 8).stdout
    assert text.startswith(f"wrote {tmp_path / 'a.pt2'}: ")
    assert "images (N, 3, 8, 8)" in text
    assert "largest difference from the model, on other images and masks: " in text


def test_without_folding_there_are_more_operations(tmp_path: Path) -> None:
    ways = ([], ["--no-fold"])
    records = [json.loads(run(OWN, "--out", tmp_path / "a.pt2", "--json", *way).stdout) for way in ways]
    assert records[0]["operations"] < records[1]["operations"]


def test_a_file_that_answers_otherwise_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "difference", lambda *of: float("nan"))
    out = tmp_path / "a.pt2"
    assert "differ from the model's" in run(TINY, "--out", out, "--quiet", status=1).stderr


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is in no format that is known here: onnx, pt2" in refused(OWN, "--out", tmp_path / "a.bin")
    assert "another format than --format onnx" in refused(
        OWN, "--out", tmp_path / "a.pt2", "--format", "onnx"
    )
    monkeypatch.setattr(
        sys.modules[__name__], "small", lambda: Loaded(nn.Linear(2, 2), Preprocessing(), (), "")
    )
    said = refused(OWN, "--out", tmp_path / "a.pt2")
    assert "does not take images of shape (1, 3, 224, 224)" in said and "see --size" in said


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = refused(OWN, "--out", tmp_path / "a.onnx")
    assert "the package onnxscript, which is not installed: pip install" in said and '"onnx>=' in said
