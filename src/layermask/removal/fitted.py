"""Files of fitted statistics, which name the model and the preprocessing, and where commands find them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from layermask.arguments import kinds
from layermask.core.settings import Settings
from layermask.errors import InputError, import_optional
from layermask.io.atomic import is_file, make_folder, read_bytes, write_all
from layermask.io.record import versions
from layermask.kernels.cache import folders
from layermask.removal.moments import TENSORS, Statistics
from layermask.zoo.loaded import Loaded, parameters_digest
from layermask.zoo.preprocessing import Preprocessing

_GIVEN: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()
"""The files that users named for their models."""
_FIT = "layermask fit MODEL --data DIR"


def give(model: nn.Module, path: str | Path) -> None:
    """Have removals by name that are fitted read this file for the model, in place of the one in the cache.

    Raises:
        InputError: it holds no statistics of the model.
    """
    read(path, model)
    _GIVEN[model] = Path(path)


def default_file(model: nn.Module) -> Path:
    """Return where statistics of a model are kept if the user names no file: by what its weights hold."""
    return next(folders()) / "fitted" / f"{parameters_digest(model)[:32]}.safetensors"


def file_of(model: nn.Module) -> Path | None:
    """Return the file with statistics of a model, the one given or the one in the cache, if there is any."""
    path = _GIVEN.get(model) or default_file(model)
    return path if is_file(path) else None


def found(model: nn.Module, name: str) -> Path:
    """Return the same, for the removal `name`.

    Raises:
        InputError: there is none.
    """
    path = file_of(model)
    if path is None:
        raise InputError(
            f"removal {name!r} needs statistics of this model, and there are none: collect them by `{_FIT}`, "
            "name their file by --fitted, or use layermask.removal.Matched(model).fit(images)"
        )
    return path


def write(
    path: str | Path,
    statistics: Statistics,
    strength: float,
    settings: Settings,
    model: nn.Module,
    loaded: Loaded | None = None,
) -> None:
    """Write statistics as safetensors, with the names of the model and, if `loaded`, of its preprocessing.

    Raises:
        InputError: the file cannot be written.
    """
    name = type(model).__name__ if loaded is None else loaded.name
    facts = {
        "layermask": versions().get("layermask", ""),
        "model": name,
        "weights": parameters_digest(model),
        "preprocessing": None if loaded is None else loaded.preprocessing.record(),
        "settings": repr(settings),
        "strength": strength,
        **{name: getattr(statistics, name) for name in _FACTS},
    }
    tensors = {name: getattr(statistics, name).cpu().contiguous() for name in TENSORS}
    metadata = {"matched": json.dumps(facts)}
    content = import_optional("safetensors.torch", "timm").save(tensors, metadata)
    path = kinds.path("path", path)
    make_folder(path.parent)
    write_all({path: content})


_FACTS = ("channels", "place", "shape", "images")


def read(
    path: str | Path, model: nn.Module, preprocessing: Preprocessing | None = None
) -> tuple[Statistics, dict[str, Any]]:
    """Return what `write` wrote: the statistics, and the facts about them.

    Raises:
        InputError: there is no such file, it holds no statistics, or those of other weights or preprocessing.
    """
    path = kinds.path("path", path)
    tensors, facts = _content(path)
    if facts["weights"] != parameters_digest(model):
        raise InputError(
            f"{path} holds statistics of {facts['model']} with other weights than this {type(model).__name__}"
            f" has: collect those of this model by `{_FIT}`"
        )
    theirs = facts["preprocessing"]
    if preprocessing is not None and theirs is not None and Preprocessing.restore(theirs) != preprocessing:
        raise InputError(
            f"{path} holds statistics of pictures preprocessed as {theirs}, and the model is given them as "
            f"{preprocessing.record()}: collect them anew by `{_FIT}`"
        )
    return Statistics(tensors, *(facts[name] for name in _FACTS)), facts


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    package = import_optional("safetensors", "timm")
    content = read_bytes(path, "file of statistics")
    try:
        tensors = import_optional("safetensors.torch", "timm").load(content)
        length = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["matched"])
        whole = {*_FACTS, "weights", "model", "preprocessing", "settings", "strength"} <= facts.keys()
        channels = sum(facts["channels"]) if whole else 0
        if not whole or tensors["mean"].shape != (len(tensors["levels"]) + 1, channels):
            raise ValueError("it is incomplete")
    except (ValueError, KeyError, TypeError, package.SafetensorError) as error:
        raise InputError(
            f"{path} holds no statistics that `layermask fit` or Matched.save wrote: {error}"
        ) from error
    return tensors, facts
