"""Build an untrained architecture by name, offline: what coverage and `layermask check` judge."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

Shape = tuple[int, ...]


def build(name: str, size: int | None = None) -> tuple[nn.Module, Shape]:
    """Return the model `name` in eval mode and the shape of one image, (channels, height, width).

    `name`: "torchvision/resnet18", "timm/convnext_atto", "hf/vit" (a model type of transformers, with its
    default configuration), "builtin", or "module:function", a function without arguments returning the model.
    """
    library, _, rest = name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if ":" in name:
            model, shape = _from_function(name), (3, size or 224, size or 224)
        elif library in BUILDERS:
            model, shape = BUILDERS[library](rest, size)
        else:
            known = ", ".join(f"{key}/…" for key in BUILDERS if key != "builtin")
            raise ValueError(f"unknown model {name!r}: expected builtin, {known} or module:function")
    return model.eval(), shape


def _torchvision(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    from torchvision import models

    side = size or (299 if name == "inception_v3" else 224)
    options: dict[str, object] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # silences a warning; both are redrawn anyway
    if size and name.startswith("vit_"):
        options["image_size"] = size
    if size and name.startswith("maxvit"):
        options["input_size"] = (size, size)
    return models.get_model(name, **options), (3, side, side)


def _timm(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    import timm

    try:
        model = timm.create_model(name.partition(".")[0], **({"img_size": size} if size else {}))
    except TypeError:  # convolutional networks take any size, and no such argument
        model = timm.create_model(name.partition(".")[0])
    channels, *default = timm.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    return model, (channels, *([size, size] if size else default))


def _hf(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(name) if "/" in name else AutoConfig.for_model(name)
    if size and hasattr(config, "image_size"):
        config.image_size = size
    side = size or getattr(config, "image_size", 224)
    model = AutoModelForImageClassification.from_config(config)
    return model, (getattr(config, "num_channels", 3), side, side)


def _builtin(_: str, size: int | None) -> tuple[nn.Module, Shape]:
    return _timm("tf_efficientnet_lite0", size)


def _from_function(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, so that the user's own file is found
    try:
        model = getattr(importlib.import_module(module), function)()
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


BUILDERS: dict[str, Callable[[str, int | None], tuple[nn.Module, Shape]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hf,
    "builtin": _builtin,
}


def names() -> Iterator[str]:
    """Every torchvision classification model and every timm architecture."""
    import timm
    from torchvision import models

    yield from (f"torchvision/{name}" for name in models.list_models(module=models))
    yield from (f"timm/{name}" for name in timm.list_models())


def smallest_size(name: str, sizes: tuple[int, ...] = (96, 128, 160, 192, 224)) -> int | None:
    """Return the first of `sizes` that the model takes, None if only its own; tried without any memory."""
    for size in sizes:
        try:
            with torch.device("meta"), torch.no_grad():
                model, shape = build(name, size)
                model(torch.empty(2, *shape))
            return size
        except NotImplementedError:  # looks at its own data, so it cannot be tried here
            return size
        except Exception:  # whatever a model raises for a size it does not take
            continue
    return None
