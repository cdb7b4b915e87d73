"""Every fill, growth rule and segmenter draws itself: `python -m layermask.removal.fills.blur`."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from layermask import segment
from layermask.core.window import GROWTHS
from layermask.io import demo
from layermask.removal import fills
from layermask.segment import SEGMENTERS

FILLS = sorted(
    {getattr(fills, name).__module__.removeprefix("layermask.") for name in fills.__all__}
    - {"removal.fills.protocol"}
)
MODULES = [*FILLS, "core.window", "segment.segmenters"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # as another test has imported it
@pytest.mark.parametrize("module", MODULES)
def test_it_draws_all_that_is_in_it(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if module.endswith("inpaint"):
        pytest.importorskip("cv2")
    drawn: dict[str, Tensor] = {}
    draw = demo.draw
    monkeypatch.setattr(demo, "draw", lambda name, pictures: (drawn.update(pictures), draw(name, pictures)))
    monkeypatch.setattr(sys, "argv", [module, str(tmp_path / "new" / "sheet.png")])
    runpy.run_module(f"layermask.{module}", run_name="__main__", alter_sys=True)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width == (demo.SIDE + 4) * min(len(drawn), demo.COLUMNS)
    expected = {
        "core.window": set(GROWTHS),
        "segment.segmenters": {"Boxes", *(kind.__name__ for kind in SEGMENTERS.values())},
        "removal.fills.inpaint": {"telea", "ns"},
        "removal.fills.noise": {"gaussian", "uniform", "RandomPixels"},
    }
    of_module = {n for n in fills.__all__ if getattr(fills, n).__module__ == f"layermask.{module}"}
    first = {"core.window": {"before"}, "segment.segmenters": set()}.get(module, {"hidden"})
    assert drawn.keys() == expected.get(module, of_module) | first
    assert len({each.numpy().tobytes() for each in drawn.values()}) == len(drawn)


def test_it_says_where_the_picture_is(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "layermask.removal.fills.pushpull"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert said == "out/pictures/pushpull.png" and (tmp_path / said).is_file()


def test_the_photograph_is_there_to_be_hidden() -> None:
    assert demo.photograph().shape == (1, 3, demo.SIDE, demo.SIDE)
    assert 0.2 < demo.holes().float().mean() < 0.8


def test_all_segmenters_are_in_one_file() -> None:
    assert {kind.__module__ for kind in SEGMENTERS.values()} == {"layermask.segment.segmenters"}
    assert segment.Boxes.__module__ == "layermask.segment.segmenters"
