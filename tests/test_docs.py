"""Code of the docs that no other test runs: it does what its page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import layermask as lm

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    """Return the Python of a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Path) -> None:
    code, four_bands = blocks("own-model.md")
    (tmp_path / "mymodels.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    loaded = lm.load("mymodels:three")
    assert loaded.labels == ("cat", "dog") and loaded.preprocessing(photograph).shape == (1, 3, 64, 64)
    scene = torch.rand(1, 4, 64, 64)
    scene[..., :16, :16] = torch.nan
    monkeypatch.setattr(lm.data, "load_raster", lambda path: scene)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    exec(four_bands, {"model": model})


def test_looking_at_an_attribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping, many = [
        code for code in blocks("explaining.md") if "found.save(" in code or "attribute_each" in code
    ]
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    loaded = lm.zoo.Loaded(model.eval(), lm.zoo.Preprocessing((64, 64), (64, 64)))
    assert loaded.labels == () and loaded.name == ""
    x, removal = torch.randn(1, 3, 64, 64), lm.LayerMasking(model)
    lm_image = loaded.preprocessing.picture(x)
    from PIL import Image

    Image.fromarray(lm_image).save(tmp_path / "photos" / "a.png")
    found = lm.Lime(removal, n_samples=40).attribute(x, feature_mask=lm.Grid(16)(x))
    names = {"lm": lm, "loaded": loaded, "x": x, "removal": removal, "found": found}
    exec(keeping, dict(names))
    assert (tmp_path / "cat.png").exists()
    assert torch.equal(lm.Attribution.load("cat.json").scores, found.scores)
    exec(many, dict(names))
    assert (tmp_path / "attributions" / "a.json").exists()
