"""Weight files: read a state dict and load it into an architecture; errors name what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermask.errors import ModelError, import_optional
from layermask.io.atomic import exists, open_file, read_bytes, reason
from layermask.zoo.loaded import blamed

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training scripts store the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def read_state(path: str | Path) -> State:
    """Return the float32 tensors of a .safetensors file, or of a state dict saved with `torch.save`."""
    path = Path(path)
    if not exists(path):
        raise ModelError(f"weights {path} does not exist: give a weight file")
    stored = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(stored)
    if not state:
        raise ModelError(f"weights {path} holds no tensors by name: expected a state dict")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def build_with(state: State, path: str | Path, build: Callable[..., nn.Module]) -> nn.Module:
    """Return `build()` with the weights; with `build(classes)` where only the number of classes differs."""
    model = build()
    classes = _classes(model.state_dict(), _strip(state, model))
    if classes is not None:
        model = build(classes)
    load_state(model, state, path)
    return model


def load_state(model: nn.Module, state: State, path: str | Path) -> None:
    """Copy the weights into the model; every key and shape has to fit."""
    state = _strip(state, model)
    own = model.state_dict()
    problems = {
        # Never used in evaluation, and often left out of published files.
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {_shape(state[key])} for {_shape(own[key])}"
            for key in own
            if key in state and own[key].shape != state[key].shape
        ],
    }
    found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise ModelError(f"weights {path} do not fit {type(model).__name__}: {'; '.join(found)}")
    with blamed(f"weights {path} do not fit {type(model).__name__}:"):
        model.load_state_dict(state, strict=False)


def _read_safetensors(path: Path) -> Any:
    library = import_optional("safetensors.torch", "timm")
    content = read_bytes(path, "weights", ModelError)
    try:
        return library.load(content)
    except Exception as error:  # of a damaged header, too
        raise ModelError(f"weights {path} is not a readable safetensors file: {reason(error)}") from error


def _read_torch(path: Path) -> Any:
    file = open_file(path, "weights", ModelError)
    try:
        with file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights {path} is not a torch file of tensors only, and other files can run code when loaded: "
            "save it with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # other bytes fail in many ways
        raise ModelError(f"weights {path} is not a readable torch file: {reason(error)}") from error


def _unwrap(stored: Any) -> State:
    for key in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping):
        return {}
    return {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}


def _strip(state: State, model: nn.Module) -> State:
    """Take off the prefixes that wrappers put before most keys, in any order, unless the model has them too.

    Other keys, as those of a loss, stay as they are, to be named if the model has no such weights.
    """
    own = model.state_dict()
    alien = [prefix for prefix in PREFIXES if not any(key.startswith(prefix) for key in own)]
    while prefix := next((each for each in alien if _begin_most(state, each)), None):
        bare = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(bare) < len(state):  # two keys became one: they are of two models
            return state
        state = bare
    return state


def _begin_most(state: State, prefix: str) -> bool:
    return sum(key.startswith(prefix) for key in state) > len(state) / 2


def _classes(own: State, state: State) -> int | None:
    """Return the number of classes of the file where it is the only difference of shape, else None."""
    other = [
        (own[key].shape, state[key].shape)
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    rows = {(a[0], b[0]) for a, b in other if len(a) and len(b) and a[1:] == b[1:]}
    if not other or len(rows) != 1 or any(a[1:] != b[1:] for a, b in other):
        return None
    return rows.pop()[1]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
