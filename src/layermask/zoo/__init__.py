"""`load(name)`: a model with its preprocessing and class names, from where pretrained models are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import MissingPackage, ModelError, import_optional, nearest
from layermask.zoo.loaded import Loaded, blamed
from layermask.zoo.loaded import tried as tried
from layermask.zoo.own import own
from layermask.zoo.preprocessing import Preprocessing
from layermask.zoo.sources import MODEL_SOURCES

__all__ = ["Loaded", "Preprocessing", "load", "names"]


@checked(name=kinds.text, weights=kinds.optional(kinds.path), device=kinds.device)
def load(
    name: str = "builtin", weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Loaded:
    """Load a pretrained model by name, in eval mode.

    `name`: "builtin" (EfficientNet-Lite0, embedded), "torchvision/NAME", "timm/NAME" or "timm/NAME.TAG",
    "hf/ORG/NAME" or "hf/FOLDER", or "module:function", a function of your own without arguments that returns
    the model, or a `Loaded`. `weights`: a .safetensors file or a state dict to use instead of the hub's.
    Raises `ModelError`, with the nearest names for an unknown one.
    """
    library, slash, rest = name.partition("/")
    with blamed(f"model {name!r} cannot be loaded:"):
        if library in MODEL_SOURCES and (rest or library == "builtin"):
            loaded = MODEL_SOURCES[library](rest, weights)
        elif ":" in name and not slash:
            loaded = own(name, weights)
        else:
            forms = "builtin, torchvision/NAME, timm/NAME, hf/ORG/NAME, module:function"
            raise ModelError(f"unknown model {name!r}{_suggestion(name)}; the forms are {forms}")
    with blamed(f"model {name!r} cannot be moved to {device}:"):
        loaded.model.eval()
        return replace(loaded, model=loaded.model.to(device), name=name)


@checked(pattern=kinds.text)
def names(pattern: str = "*") -> Iterator[str]:
    """List the names that `load` takes and that match a wildcard; Hugging Face's are not listed."""
    every = ["builtin", *_torchvision(), *_timm()]
    return (name for name in every if fnmatchcase(name, pattern))


def _torchvision() -> list[str]:
    try:
        models = import_optional("torchvision.models", "torchvision")
    except MissingPackage:
        return []
    return [f"torchvision/{name}" for name in models.list_models(module=models)]


def _timm() -> list[str]:
    try:
        library = import_optional("timm", "timm")
    except MissingPackage:
        return []
    return [f"timm/{name}" for name in library.list_models()]


def _suggestion(name: str) -> str:
    everything = list(names())
    same = [full for full in everything if full.endswith(f"/{name}")]
    return f" (did you mean {' or '.join(same)}?)" if same else nearest(name, everything)
