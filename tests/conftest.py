"""What several tests need: the photograph, the embedded model, the shared data where there is any."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import layermask
from layermask.data.images import load_image
from layermask.zoo import hub, load
from layermask.zoo.loaded import Loaded

# Before the model libraries are imported and read them: tests do not depend on the caches of a machine.
_CACHES = tempfile.TemporaryDirectory(prefix="layermask-tests-")
os.environ["HF_HOME"] = os.environ["TORCH_HOME"] = _CACHES.name
os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at a hub find no network."""
    monkeypatch.setattr(hub, "reachable", lambda url, timeout=0.0: False)


@pytest.fixture(scope="session")
def photograph() -> Path:
    """The bundled picture, 451x300."""
    return Path(layermask.__file__).parent / "assets" / "chelsea.jpg"


@pytest.fixture(scope="session")
def picture(photograph: Path) -> Image.Image:
    return load_image(photograph)


@pytest.fixture(scope="session")
def builtin() -> Loaded:
    return load("builtin")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and images (LAYERMASK_DATA, or ../shared/data beside the checkout)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAYERMASK_DATA", beside))
    if not (folder / "imagenet_sample_1000" / "labels.csv").exists():
        pytest.skip("no real weights and images here: set LAYERMASK_DATA to their folder")
    return folder
