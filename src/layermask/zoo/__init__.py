"""`load(name)`: a model with its preprocessing and class names, from where pretrained models are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.zoo.loaded import Loaded, blamed
from layermask.zoo.loaded import tried as tried
from layermask.zoo.own import own
from layermask.zoo.preprocessing import Preprocessing
from layermask.zoo.sources import MODEL_SOURCES, library_names, source_of

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
    with blamed(f"model {name!r} cannot be loaded:"):
        source, rest = source_of(name, MODEL_SOURCES, own)
        loaded = source(rest, weights)
    with blamed(f"model {name!r} cannot be moved to {device}:"):
        loaded.model.eval()
        return replace(loaded, model=loaded.model.to(device), name=name)


@checked(pattern=kinds.text)
def names(pattern: str = "*") -> Iterator[str]:
    """List the names that `load` takes and that match a wildcard; Hugging Face's are not listed."""
    return (name for name in ["builtin", *library_names()] if fnmatchcase(name, pattern))
