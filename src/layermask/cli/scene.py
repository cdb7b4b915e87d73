"""What `explain` and `predict` share: the model before the picture, and the files they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layermask.cli.options import torch_device
from layermask.errors import printable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from layermask.zoo.loaded import Loaded

Ranking = list[tuple[int, float]]  # classes and probabilities, the most likely first


@dataclass(frozen=True)
class Scene:
    """A picture before a model. `size`: (width, height) of the upright picture; `x`: (1, C, H, W)."""

    path: Path
    size: tuple[int, int]
    loaded: Loaded
    weights: Path | None
    x: Tensor

    @property
    def title(self) -> str:
        return printable(f"{self.path.name}, {self.loaded.name}")

    @cached_property
    def picture(self) -> np.ndarray:
        return self.loaded.preprocessing.picture(self.x)

    @cached_property
    def predictions(self) -> Ranking:
        return rank(lambda: self.loaded.model(self.x))

    def label(self, index: int) -> str:
        from layermask.zoo.labels import short

        return short(self.loaded.labels[index]) if index < len(self.loaded.labels) else f"class {index}"

    def named(self, ranking: Ranking) -> list[tuple[str, float]]:
        return [(self.label(index), probability) for index, probability in ranking]

    def entries(self, ranking: Ranking) -> list[dict[str, Any]]:
        return [
            {"class": index, "label": self.label(index), "probability": chance} for index, chance in ranking
        ]

    def record(self) -> dict[str, Any]:
        """Return the entries of the JSON file that both commands have."""
        from layermask.io import record

        image = {"file": self.path.name, "size": list(self.size), "sha256": record.sha256(self.path)}
        return {
            "versions": record.versions(),
            "image": image,
            "model": record.of_model(self.loaded, self.weights),
            "device": self.x.device.type,
            "predictions": self.entries(self.predictions),
        }


class Files(NamedTuple):
    """What was written: two paths, the JSON text, and which engine answered."""

    picture: Path
    record: Path
    text: str
    engine: str | None


def prepare(image: Path, model: str, weights: Path | None, device: str) -> Scene:
    from layermask.data.images import load_image

    load_image(image)  # before the model: quick to fail
    return look(image, *load_model(model, weights, device), weights)


def load_model(model: str, weights: Path | None, device: str) -> tuple[Loaded, torch.device]:
    """Return the model, tried out, and the device: what it cannot do is found before the work."""
    from layermask.zoo import load, tried

    where = torch_device(device)
    return tried(load(model, weights, where)), where


def look(image: Path, loaded: Loaded, device: torch.device, weights: Path | None) -> Scene:
    from layermask.data.images import load_image

    picture = load_image(image)
    return Scene(image, picture.size, loaded, weights, loaded.preprocessing(picture).to(device))


def rank(answer: Callable[[], Any], count: int = 5) -> Ranking:
    """Return the most likely classes of a model's output for one picture."""
    import torch

    from layermask.errors import ModelError
    from layermask.zoo.outputs import compared_scores

    with torch.no_grad():
        output = answer()
    logits = compared_scores(output, 1)
    if not logits.isfinite().all():
        raise ModelError("the model's scores for this picture are not all finite")
    probabilities, classes = logits[0].float().softmax(-1).topk(min(count, logits.shape[1]))
    return list(zip(classes.tolist(), probabilities.tolist(), strict=True))


def ranking_lines(ranking: list[tuple[str, float]]) -> str:
    return "\n".join(f"  {100 * probability:5.1f} %  {name}" for name, probability in ranking)


def in_one_line(text: str) -> str:
    """Return a JSON record as one line, of which many make a JSON Lines file."""
    from json import dumps, loads

    return printable(dumps(loads(text), ensure_ascii=False))


def write(folder: Path, stem: str, picture: bytes, record: Mapping[str, Any]) -> Files:
    """Write both files of a command, or neither; the record gets the checksums of both."""
    from layermask.io.atomic import make_folder, write_all
    from layermask.io.record import sealed, to_json

    text = to_json(sealed(record, picture))
    files = Files(folder / f"{stem}.png", folder / f"{stem}.json", text, record.get("engine_used"))
    make_folder(files.picture.parent)
    write_all({files.picture: picture, files.record: files.text.encode()})
    return files
