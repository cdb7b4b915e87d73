"""`layermask doctor`: what it finds is what is there, and it says why the engine is the one it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from typer.testing import CliRunner

from layermask import extras
from layermask.check import doctor as clinic
from layermask.check.doctor import doctor, why
from layermask.cli.app import app
from layermask.errors import MissingPackage, import_optional
from layermask.kernels import cache, kernels_status
from layermask.removal.layer_masking import LayerMasking

SHAPE = (3, tiny.SIDE, tiny.SIDE)
needs_kernels = pytest.mark.skipif(kernels_status().startswith("none"), reason="there are no kernels")


def test_it_says_what_is_there() -> None:
    found = doctor(tiny.built("Gated"), SHAPE, "gated", seconds=1e-9)
    assert torch.__version__.startswith(found.versions["torch"]) and found.kernels == kernels_status()
    assert Path(found.layermask, "__init__.py").exists()
    assert found.speed is not None and min(found.speed.plain, found.speed.dense, found.speed.sparse) > 0
    text = str(found)
    for word in ("versions", "devices", "compilers", "kernels", "cache", "engine", "extras", "speed"):
        assert f"\n{word} " in text, word
    assert f"speed      gated, {clinic.BATCH} images with half of their patches hidden: plain " in text


def test_the_speed_check_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinic, "fastest", None)
    found = doctor(tiny.built("Attending"), SHAPE, seconds=0)
    assert found.speed is None and "not measured" in str(found)


def test_the_fastest_call_counts() -> None:
    import time

    waits = {"slow": 0.02, "fast": 0.0}
    calls = {name: lambda wait=wait: time.sleep(wait) for name, wait in waits.items()}
    found = clinic.fastest(calls, torch.zeros(1), 0.05)
    assert found["slow"] >= 0.02 > found["fast"]


def answered(model: nn.Module, images: torch.Tensor) -> LayerMasking:
    removal = LayerMasking(model)
    with torch.no_grad():
        removal(images, torch.ones(1, 1, *SHAPE[1:], dtype=torch.bool))
    return removal


@needs_kernels
def test_why_the_engine_is_sparse() -> None:
    model, images = tiny.built("Gated"), torch.zeros(1, *SHAPE)
    removal = answered(model, images)
    assert removal.engine_used == "sparse"
    assert "2-d convolutions, and the compiled kernels take float32 on the CPU" in why(removal, model, images)


def test_why_the_engine_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny.built("Attending"), torch.zeros(1, *SHAPE)
    assert why(answered(model, images), model, images) == (
        "it has 1 2-d convolutions, and sparse pays from 5 on"
    )
    model, images = tiny.built("Gated").double(), images.double()
    said = why(answered(model, images), model, images)
    assert said == "auto is sparse for float32 on CPUs, and these are float64 on the CPU"
    model, images = model.float(), images.float()
    monkeypatch.setattr("layermask.sparse.ops.library", lambda: None)
    assert why(answered(model, images), model, images) == "there are no compiled kernels, see above"


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(cache, "folders", lambda: iter([tmp_path / "open", tmp_path / "own"]))
    found = doctor(tiny.built("Attending"), SHAPE, seconds=0).caches
    assert found[str(tmp_path / "open")].startswith("not used, others may write into ")
    assert found[str(tmp_path / "own")] == "can be used"


REQUIRES = [
    "torch>=2.6",
    'no-such-thing>=3; extra == "odd"',
    'numpy>=1.26; extra == "odd"',
    'torch>=2; python_version < "3.99" and extra == "even"',
]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.metadata, "requires", lambda name: REQUIRES)


def test_extras_are_read_off_the_metadata(listed: None) -> None:
    assert extras.extras() == ["even", "odd"]
    assert extras.needed("odd") == {"no-such-thing": ">=3", "numpy": ">=1.26"}
    assert extras.missing("odd") == {"no-such-thing": ">=3"} and extras.missing("even") == {}
    found = doctor(tiny.built("Attending"), SHAPE, seconds=0)
    assert found.extras == {"even": "", "odd": 'pip install "no-such-thing>=3"'}
    assert 'odd: pip install "no-such-thing>=3"' in str(found) and "complete: even\n" in str(found)


def test_a_missing_package_is_named_as_pip_takes_it(listed: None) -> None:
    with pytest.raises(MissingPackage, match=r'not installed: pip install "no-such-thing>=3"$'):
        import_optional("no_such_thing.inner", "odd")
    with pytest.raises(MissingPackage, match=r'not installed: pip install "torch>=2"$'):
        import_optional("no_such_thing", "even")  # all is there, but for what was asked
    with pytest.raises(MissingPackage, match=r'not installed: pip install "no_such_thing"$'):
        import_optional("no_such_thing", "unknown")


def test_without_metadata_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise extras.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras.metadata, "requires", absent)
    assert extras.extras() == [] and extras.install("cli", "rich") == 'pip install "rich"'


def test_the_command() -> None:
    asked = ["doctor", "--model", "timm/test_resnet", "--device", "cpu", "--seconds", "0"]
    text = CliRunner().invoke(app, asked)
    assert text.exit_code == 0, text.output
    assert "for timm/test_resnet: " in text.stdout
    record = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert record["model"] == "timm/test_resnet" and record["speed"] is None
    assert {"cli", "evaluate", "onnx"} <= set(record["extras"])
    refused = CliRunner().invoke(app, ["doctor", "--model", "resnet50"])
    assert refused.exit_code == 2 and "unknown model" in refused.stderr


def test_python_m_layermask() -> None:
    done = subprocess.run([sys.executable, "-m", "layermask", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("layermask ")
