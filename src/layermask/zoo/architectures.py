"""Build an architecture by name without its weights, offline: what `layermask check` and coverage judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from layermask.errors import import_optional
from layermask.zoo import hub
from layermask.zoo.loaded import blamed
from layermask.zoo.own import own
from layermask.zoo.sources import FORMS, source_of, timm_with, torchvision_with, unstarted

Shape = tuple[int, ...]


def build(name: str, size: int | None = None) -> tuple[nn.Module, Shape]:
    """Return the model `name` in eval mode and the shape of one image, (channels, height, width).

    `name`: "torchvision/resnet18", "timm/convnext_atto", "hf/vit" (a model type of transformers, in its
    default configuration) or "hf/ORG/NAME", "builtin", or "module:function" as in `layermask.load`, which
    alone keeps its weights. `size`: of the image, for models that take more than one.
    """
    source, rest = source_of(name, BUILDERS, _own, FORMS.replace("hf/ORG", "hf/TYPE, hf/ORG"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with blamed(f"model {name!r} cannot be built{f' with --size {size}' if size else ''}:"):
            model, shape = source(rest, size)
    return model.eval(), shape


def _torchvision(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    models = torchvision_with(name)
    side = size or (299 if name == "inception_v3" else 224)
    options: dict[str, object] = {"weights": None, **unstarted(name)}
    if size and name.startswith("vit_"):
        options["image_size"] = size
    if size and name.startswith("maxvit"):
        options["input_size"] = (size, size)
    return models.get_model(name, **options), (3, side, side)


def _timm(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    architecture = name.partition(".")[0]
    timm = timm_with(architecture)
    options: dict[str, Any] = {"img_size": size} if size else {}
    try:
        model = timm.create_model(architecture, **options)
    except TypeError:  # convolutional networks take any size, and no such argument
        model = timm.create_model(architecture)
    channels, *default = timm.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    return model, (channels, *([size, size] if size else default))


def _hf(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    transformers = import_optional("transformers", "hf")
    if "/" in name:
        with hub.huggingface(f"hf/{name}"):
            config = transformers.AutoConfig.from_pretrained(name)
    else:
        config = transformers.AutoConfig.for_model(name)
    if size and hasattr(config, "image_size"):
        config.image_size = size
    side = config.image_size if hasattr(config, "image_size") else size or 224
    model = transformers.AutoModelForImageClassification.from_config(config)
    return model, (getattr(config, "num_channels", 3), side, side)


def _own(name: str, size: int | None) -> tuple[nn.Module, Shape]:
    loaded = own(name, None)
    side = (size, size) if size else loaded.preprocessing.crop
    return loaded.model, (loaded.preprocessing.channels, *side)


BUILDERS: dict[str, Callable[[str, int | None], tuple[nn.Module, Shape]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hf,
    "builtin": lambda _, size: _timm("tf_efficientnet_lite0", size),
}


def smallest_size(name: str, sizes: tuple[int, ...] = (64, 96, 112, 128, 160, 192, 224)) -> int | None:
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


def parameters(name: str) -> int:
    """Return the number of parameters, counted without memory for them where the model allows."""
    try:
        with torch.device("meta"):
            model, _ = build(name)
    except NotImplementedError:
        model, _ = build(name)
    return sum(parameter.numel() for parameter in model.parameters())
