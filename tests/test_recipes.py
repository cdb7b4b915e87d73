"""The scripts in examples/ run, and what they claim holds."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = sorted(EXAMPLES.glob("*.py"))
OF_TARGETS = {"clip", "detector", "segmenter", "vlm"}
"""Scripts whose functions are tested one by one."""


@pytest.mark.parametrize("name", [path.stem for path in RECIPES if path.stem not in OF_TARGETS])
def test_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each asserts at its end what it claims."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out, "it says what it found"


def test_every_recipe_is_in_the_docs() -> None:
    pages = "".join(page.read_text() for page in (EXAMPLES.parent / "docs").glob("*.md"))
    assert [path.name for path in RECIPES if f"examples/{path.name}" not in pages] == []


def run(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Any]:
    """Return what the script defines, and the attribution that its `main` finds."""
    pytest.importorskip(package)
    monkeypatch.setattr("sys.argv", [name])
    defined = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    found = defined["main"]()
    assert bool(found.scores.isfinite().all()) and float(found.scores.std()) > 0
    return defined, found


def test_a_box_of_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, the box is found as it is: the overlap is 1, and the score its own."""
    defined, found = run("detector", "torchvision", monkeypatch)
    model, image = defined["detector"](), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        best = model(image)[0]["scores"].max()
    assert float(defined["explain"](model, image, 8).prediction[0]) == pytest.approx(float(best), abs=1e-5)
    assert found.targets[0].target in (1, 2, 3)


def test_a_region_of_a_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    defined, _ = run("segmenter", "torchvision", monkeypatch)
    model, image = defined["segmenter"](), torch.rand(1, 3, 64, 64)
    found = defined["explain"](model, image, [(8, 8), (40, 8), (40, 24), (8, 24)])
    with torch.no_grad():
        maps = model(image)["out"].softmax(1)[0, :, 8:24, 8:40]
    assert float(found.prediction[0]) == pytest.approx(float(maps[found.targets[0].target].mean()), abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions
def test_the_similarity_to_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    defined, _ = run("clip", "transformers", monkeypatch)
    clip, image, words = defined["tiny_clip"](), torch.rand(1, 3, 64, 64), torch.tensor([[48, 3, 49]])
    with torch.no_grad():
        both = clip(input_ids=words, pixel_values=image)
        cosine = cosine_similarity(both.image_embeds, both.text_embeds)
    assert float(defined["explain"](clip, image, words).prediction[0]) == pytest.approx(
        float(cosine), abs=1e-5
    )


@pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions
def test_the_next_word_of_a_vision_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    defined, _ = run("vlm", "transformers", monkeypatch)
    model, image = defined["tiny_llava"](), torch.rand(1, 3, 64, 64)
    words = torch.tensor([[1, *[defined["IMAGE_TOKEN"]] * 16, 9]])
    word, found = defined["explain"](model, image, words)
    with torch.no_grad():
        last = model(input_ids=words, pixel_values=image).logits[0, -1].log_softmax(-1)
    assert word == int(last.argmax())
    assert float(found.prediction[0]) == pytest.approx(float(last[word]), abs=1e-5)
