"""Explaining many pictures one after the other, with results on disk, so that a stopped run continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.arguments.refusal import shown, wrong_type
from layermask.data.files import by_stem
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.explainer import Explainer
from layermask.explain.saved import plain, restored, saved
from layermask.io.atomic import exists, is_folder, make_folder, read_json, write_all
from layermask.io.record import to_json
from layermask.segment.segmenters import Grid

Batch = tuple[list[str], Tensor, list[Any]]
"""Names, images (N, C, *S) and targets of as many."""


def _pictures(name: str, value: Any) -> Any:
    """Return a folder that is there, or something that can be gone through."""
    if isinstance(value, (str, os.PathLike)):
        folder = kinds.path(name, value)
        if not is_folder(folder):
            raise InputError(f"{name}: there is no folder {value}")
        return folder
    if not isinstance(value, Iterable):
        raise wrong_type(name, value, "give a folder, paths, or batches as of a DataLoader")
    return value


@checked(
    explainer=lambda name, value: kinds.instance(name, value, Explainer),
    segmenter=kinds.optional(kinds.function),
    preprocessing=kinds.optional(kinds.function),
    folder=kinds.optional(kinds.path),
    labels=kinds.flag,
    device=kinds.device,
    pictures=_pictures,
)
def attribute_each(
    explainer: Explainer,
    pictures: str | Path | Iterable[Any],
    segmenter: Callable[[Tensor], Tensor] | None = None,
    *,
    preprocessing: Callable[[Any], Tensor] | None = None,
    folder: str | Path | None = None,
    labels: bool = False,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[str, Attribution]]:
    """Yield the name and the attribution of every picture, in order.

    Args:
        explainer: what explains them, as `Lime(removal)`.
        pictures: a folder, with those within; paths or Pillow images, which need `preprocessing`; or batches
            (N, C, *S), or tuples (batch, labels, ...), as of a DataLoader that does not shuffle. Pictures
            without a path are named by their number, "00000000" the first.
        segmenter: from one image (1, C, *S) to its segments (*S); by default `Grid(16)`.
        preprocessing: from a picture to (1, C, *S), as `loaded.preprocessing`.
        folder: where each attribution is written, as NAME.json, which `Attribution.load` reads. What an
            earlier run has written there for the same picture, segments, target, settings and weights is
            read and not worked out anew. The code of a function or a model is not compared.
        labels: explain the labels of the batches in place of the likeliest classes.
        device: where the images go.

    Raises:
        InputError: a picture cannot be read, two have the same name, or what is given does not fit.
    """
    segment = Grid(16) if segmenter is None else segmenter
    model = fingerprint(explainer.removal) if folder else b""
    seen: set[str] = set()
    for names, images, targets in _batches(pictures, preprocessing, labels):
        if twice := seen.intersection(names):
            raise InputError(f"two pictures are called {min(twice)}: results are kept by name")
        seen.update(names)
        images = images.to(device)
        maps = [segment(image[None]) for image in images]
        asked = [_request(explainer, model, *each) for each in zip(images, maps, targets, strict=True)]
        yield from _explained(explainer, names, images, targets, maps, asked, folder)


def _explained(
    explainer: Explainer,
    names: list[str],
    images: Tensor,
    targets: list[Any],
    maps: list[Tensor],
    asked: list[str],
    folder: str | Path | None,
) -> Iterator[tuple[str, Attribution]]:
    paths = [Path(folder) / f"{name}.json" if folder else None for name in names]
    found = [_earlier(*each) for each in zip(paths, asked, strict=True)]
    left = [number for number, each in enumerate(found) if each is None]
    if left:
        chosen = [targets[i] for i in left], [maps[i] for i in left]
        for number, each in zip(left, explainer.attribute_batch(images[left], *chosen), strict=True):
            found[number] = each
            _keep(paths[number], each, asked[number])
    yield from zip(names, (each for each in found if each is not None), strict=True)


def _earlier(path: Path | None, request: str) -> Attribution | None:
    """Return what an earlier run has found for the same request."""
    if path is None or not exists(path):
        return None
    try:
        record = read_json(path, "attribution")
        return Attribution(**restored(record)) if record["request"] == request else None
    except (KeyError, TypeError, ValueError, RuntimeError):
        warnings.warn(f"{path} is damaged or no attribution: done again", stacklevel=2)
        return None


def _keep(path: Path | None, found: Attribution, request: str) -> None:
    if path is not None:
        make_folder(path.parent)
        write_all({path: to_json({"request": request, **saved(found)}).encode()})


def _batches(pictures: Any, preprocessing: Any, labels: bool) -> Iterator[Batch]:
    if isinstance(pictures, Path):
        found = by_stem(pictures)
        if not found:
            raise InputError(f"folder {pictures} holds no pictures")
        for name, path in found.items():
            yield [name], _prepared(path, preprocessing), [None]
        return
    number = 0
    for item in pictures:
        yield (batch := _batch(item, preprocessing, labels, number))
        number += len(batch[0])


def _batch(item: Any, preprocessing: Any, labels: bool, number: int) -> Batch:
    images, *others = item if isinstance(item, (list, tuple)) else [item]
    if not isinstance(images, Tensor):
        named = isinstance(images, (str, os.PathLike))
        name = Path(images).stem if named else f"{number:08d}"
        return [name], _prepared(images, preprocessing), [others[0] if labels and others else None]
    if labels and not others:
        raise InputError("labels=True, and the batches have none: give tuples (images, labels)")
    names = [f"{number + i:08d}" for i in range(len(images))]
    return (
        names,
        images,
        kinds.per_image("labels", others[0], len(images)) if labels else [None] * len(images),
    )


def _prepared(picture: Any, preprocessing: Any) -> Tensor:
    if preprocessing is None:
        raise InputError("pictures need preprocessing=loaded.preprocessing, which makes the model's tensors")
    return preprocessing(picture)


def _request(explainer: Explainer, model: bytes, image: Tensor, segments: Tensor, target: Any) -> str:
    """Return a checksum of all that the scores depend on."""
    settings = {k: v for k, v in explainer.settings().items() if k != "perturbations_per_eval"}
    words = plain([explainer.name, settings, shown(target)])
    digest = hashlib.sha256(model + json.dumps(words, sort_keys=True).encode())
    for x in (image, segments):
        digest.update(_bytes(x))
    return digest.hexdigest()


def fingerprint(removal: Any) -> bytes:
    """Return a checksum of a removal's weights, of the kinds of its modules and of their plain settings."""
    name = getattr(removal, "__qualname__", type(removal).__qualname__)
    digest = hashlib.sha256(name.encode())
    if isinstance(removal, nn.Module):
        for where, module in removal.named_modules():
            digest.update(repr((where, type(module).__qualname__, _settings(module))).encode())
        for where, x in removal.state_dict().items():
            digest.update(where.encode() + (_bytes(x) if isinstance(x, Tensor) else b""))
    return digest.digest()


def _settings(module: nn.Module) -> dict[str, Any]:
    known = (bool, int, float, str, tuple, type(None))
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if name not in ("engine_used", "training")
        and (isinstance(value, known) or dataclasses.is_dataclass(value))
    }


def _bytes(x: Tensor) -> bytes:
    """Return what a tensor holds, its kind and its shape."""
    held = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x.new_empty(0).cpu()
    return str((x.dtype, tuple(x.shape))).encode() + held.numpy().tobytes()
