"""A model of the user's own code, by `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from layermask.errors import ModelError
from layermask.zoo import labels
from layermask.zoo.loaded import Loaded, blamed, count_classes
from layermask.zoo.preprocessing import Preprocessing
from layermask.zoo.processor import from_timm
from layermask.zoo.weights import load_state, read_state


def own(name: str, weights: str | Path | None) -> Loaded:
    """Call the function: it returns the model, or a `Loaded` with the preprocessing and names it needs."""
    found = _call(name)
    model = found.model if isinstance(found, Loaded) else found
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name} returned {type(found).__name__}: expected a torch.nn.Module or layermask.zoo.Loaded"
        )
    if weights is not None:
        load_state(model, read_state(weights), weights)
    if isinstance(found, Loaded):
        return found
    preprocessing = from_timm(model) if hasattr(model, "pretrained_cfg") else Preprocessing()
    return Loaded(model, preprocessing, labels.for_count(count_classes(model, preprocessing, name)), name)


def _call(name: str) -> Any:
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not function:
        raise ModelError(f"model {name!r}: give MODULE:FUNCTION, as mymodels:resnet")
    with _current_folder(), blamed(f"model {name!r} raised"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ModelError(f"model {name!r}: there is no module {error.name!r} to import") from error
        if not hasattr(found, function):
            raise ModelError(f"model {name!r}: the module {module} has no function {function!r}")
        return getattr(found, function)()


def _here() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:  # it was removed
        raise ModelError(
            f"the current folder, where modules are looked for, cannot be read: {error}"
        ) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Find modules as `python -m` does, from the current folder too: a console script does not."""
    folder = _here()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have removed it
            sys.path.remove(folder)
