"""The scripts in examples/ run, and what they claim holds: each asserts it at its end."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out, "it says what it found"


def test_every_recipe_is_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "gaps.md").read_text()
    assert RECIPES and [path.name for path in RECIPES if f"examples/{path.name}" not in page] == []
