"""`make coverage`: results of a run that was cut short, models that crash, and the page."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

VERSIONS = {"layermask": "1+abc", "torch": "2"}


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """benchmarks/coverage.py, writing elsewhere; children of its pool find it on the path too."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "coverage", raising=False)
    import coverage as module

    monkeypatch.setattr(module, "RESULTS", tmp_path / "coverage.jsonl")
    return module


def result(model: str, **change: Any) -> dict[str, Any]:
    laws = {law: [True, 0.0, ""] for law in "1259"}
    base = {"family": "resnet", "parameters": 2e6, "input": [3, 64, 64], "missing": [], "error": ""}
    return {"model": model, **base, "laws": laws, "versions": VERSIONS, **change}


def test_what_is_stored_is_the_latest_result_for_these_versions(coverage: ModuleType) -> None:
    old = result("timm/b", versions={**VERSIONS, "torch": "1"})
    lines = [result("timm/a", error="x"), old, result("timm/a")]
    coverage.RESULTS.write_text("\n".join(map(json.dumps, lines)) + '\n{"model": "timm/c", "ver')
    assert coverage._stored(VERSIONS) == [result("timm/a")]
    assert coverage._stored() == [result("timm/a"), old]


def test_a_model_that_ends_its_process_is_a_result(coverage: ModuleType) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=os._exit, args=(3,))
    process.start()
    theirs.close()
    found = coverage._collect(ours, "timm/a", process, "")
    assert found["error"] == "the process ended with status 3" and not found["late"]


def test_each_model_runs_by_itself(coverage: ModuleType) -> None:
    names = ["timm/no_such_model", "timm/test_resnet"]
    found = {r["model"]: r for r in coverage._each_in_its_process(names, jobs=1, seconds=300)}
    assert "ModelError: timm has no model" in found["timm/no_such_model"]["error"]
    assert found["timm/test_resnet"]["family"] == "resnet"
    assert all(passed for passed, *_ in found["timm/test_resnet"]["laws"].values())


def test_a_late_model_is_stopped(coverage: ModuleType) -> None:
    [found] = coverage._each_in_its_process(["timm/test_resnet"], jobs=1, seconds=0.01)
    assert found["late"] and "no answer in 0 s" in found["error"]


def test_page_has_totals_and_failures_first(coverage: ModuleType) -> None:
    leaks = {"1": [True, 0.0, ""], "2": [False, 0.5, "leaks: nan 5e-1"], "5": [True, 3e-5, "", 2e-5]}
    leaks["9"] = [True, 9e-2, "", 3e-2]
    rows = [
        result("torchvision/a"),
        result("timm/a"),
        result("timm/b", laws=leaks),
        result("timm/c", laws={}, missing=["torch.fft.fft2"]),
        result("timm/d", skipped=True),
    ]
    page = coverage.page(rows, VERSIONS, total=7)
    assert "| torchvision | 1 | 1 | 100.0 % |" in page and "| timm | 3 | 1 | 33.3 % |" in page
    assert "2 models have not been judged yet" in page and "1 are larger" in page
    assert "- `timm/b`: law 2: leaks: nan 5e-1" in page
    assert "- `timm/c`: no rule for torch.fft.fft2" in page
    assert "| timm/b | resnet | 2.0 | 3x64x64 |  | 0 | **5e-01** | 3e-05* (1.5) | 9e-02‡ (3.0) |" in page
    table = page[page.index("## Models") :]
    assert table.index("timm/c") < table.index("torchvision/a")
    assert "†" not in page


def test_page_marks_what_was_judged_at_other_versions(coverage: ModuleType) -> None:
    laws = {law: [True, 0.0, ""] for law in "125"}
    rows = [result("timm/a"), result("timm/b", laws=laws, versions={**VERSIONS, "layermask": "0"})]
    page = coverage.page(rows, VERSIONS, total=2)
    assert "1, marked †, were judged" in page and "| timm | 2 | 2 | 100.0 % |" in page
    assert "| timm/a | resnet | 2.0 | 3x64x64 |  | 0 | 0 | 0 | 0 |" in page
    assert "| timm/b † | resnet | 2.0 | 3x64x64 |  | 0 | 0 | 0 | – |" in page


def test_families_have_a_line_each(coverage: ModuleType) -> None:
    rows = [
        result("timm/a"),
        result("timm/b", laws={}, missing=["torch.fft.fft2"]),
        result("monai/UNet", family="UNet"),
        result("monai/VNet", family="", laws={}, error="ValueError: no"),
        result("timm/c", skipped=True),
    ]
    page = coverage.families(rows, VERSIONS)
    assert "| timm | 1 | 0 |" in page and "| monai | 2 | 1 |" in page
    assert "| resnet | 2 | 1 | no rule for torch.fft.fft2 |" in page
    assert "| UNet | 1 | 1 |  |" in page and "| VNet | 1 | 0 | ValueError: no |" in page


def test_models_of_other_tasks_are_built(coverage: ModuleType) -> None:
    import libraries
    import torch

    assert len(set(libraries.names())) == len(libraries.names())
    for name in ("torchvision segmentation/lraspp_mobilenet_v3_large", "torchvision video/r3d_18"):
        model, shape = libraries.build(name)
        assert name in libraries.names() and not model.training
        with torch.no_grad():
            answer = model(torch.zeros(1, *shape))
        assert name.endswith("_18") or answer["out"].shape[1:] == (5, *shape[1:])
        assert coverage._family(name) == name.partition("/")[2]


def test_answers_are_kept_that_have_a_row_for_each_image(coverage: ModuleType) -> None:
    import libraries
    import torch
    from torch import nn

    def call(model: nn.Module, images: torch.Tensor) -> dict:
        features = model(images.flatten(1))
        return {"queries": torch.ones(2, len(images)), "features": [features], "total": features.sum()}

    model = libraries.Called(nn.Linear(4, 5), call, torch.zeros(3, 1, 2, 2))
    assert [list(each.shape) for each in model(torch.zeros(1, 1, 2, 2))] == [[1, 5]]
    assert set(libraries.Called(nn.Linear(4, 5), call)(torch.zeros(2, 1, 2, 2))) == {
        "queries",
        "features",
        "total",
    }


def test_the_longest_name_that_fits_has_the_options(coverage: ModuleType) -> None:
    from configurations import CONFIGURATIONS, options_of

    assert options_of("Sam2Model") is CONFIGURATIONS["Sam2"]
    assert options_of("SamHQModel") is CONFIGURATIONS["SamHQ"]
    assert options_of("DetrForSegmentation") is not options_of("DetrForObjectDetection")
    assert options_of("ResNetModel") == {}


def test_configurations_are_of_classes_that_there_are(coverage: ModuleType) -> None:
    pytest.importorskip("transformers")
    import libraries
    from configurations import CONFIGURATIONS, options_of

    names = libraries._transformers_names()
    used = [options_of(name) for name in names]
    unused = [key for key, options in CONFIGURATIONS.items() if not any(each is options for each in used)]
    assert unused == []


@pytest.mark.parametrize("name", ["Sam2Model", "DFineForObjectDetection", "VideomtForUniversalSegmentation"])
def test_small_configurations_run(name: str, coverage: ModuleType) -> None:
    pytest.importorskip("transformers")
    import libraries
    import torch

    model, shape = libraries.build(f"transformers/{name}")
    answers = model(torch.zeros(2, *shape))
    assert answers and all(len(each) == 2 for each in answers)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6
