"""What a model itself says of its numbers: classes of which one is right, labels, or a regression."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""The kinds of problems, by the names that Hugging Face gives them as `problem_type`."""
PROBABILITIES = "probabilities of labels"

_LOSSES: dict[str, tuple[type[nn.Module], ...]] = {
    SINGLE: (nn.CrossEntropyLoss, nn.NLLLoss),
    MULTI: (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss),
    PROBABILITIES: (nn.BCELoss,),
    REGRESSION: (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.GaussianNLLLoss, nn.PoissonNLLLoss),
}
_IMAGENET = 1000
_TORCHVISION = {"torchvision.models.video": 400, "torchvision.models.segmentation": 21}
_TRANSFORMERS = ("Classification", "SemanticSegmentation")


def problem_of(model: nn.Module | None) -> tuple[str | None, str]:
    """Return the kind of problem that a model says it solves, and by what; None where it does not say.

    It says so by a Hugging Face `problem_type`, or by the losses among its modules, if they agree.
    """
    for each in modules_of(model):
        named = getattr(getattr(each, "config", None), "problem_type", None)
        if isinstance(named, str):
            return named, f"problem_type is {named!r}".replace("'", '"')
    found = {kind: each for each in modules_of(model) for kind in _LOSSES if isinstance(each, _LOSSES[kind])}
    if len(found) != 1:
        return None, ""
    kind, loss = found.popitem()
    return kind, f"loss is {type(loss).__name__}"


def is_known_classifier(model: nn.Module | None, classes: int) -> bool:
    """Whether a library's weights have so many classes, of which one is right: ImageNet's, or its own."""
    return classes == _IMAGENET or any(classes in _classes_of(each) for each in modules_of(model))


def _classes_of(module: nn.Module) -> Iterator[Any]:
    """Yield how many classes timm, torchvision or transformers say a model of theirs has."""
    cfg = getattr(module, "pretrained_cfg", None)
    yield cfg.get("num_classes") if isinstance(cfg, Mapping) else getattr(cfg, "num_classes", None)
    cls = type(module)
    yield next((n for room, n in _TORCHVISION.items() if cls.__module__.startswith(room)), None)
    if cls.__module__.startswith("transformers.") and any(part in cls.__name__ for part in _TRANSFORMERS):
        yield getattr(getattr(module, "config", None), "num_labels", None)


def ends_in_sigmoid(model: nn.Module | None) -> bool:
    """Whether a model, its last submodule, or the last of that, is a sigmoid or calls one by name."""
    path = [] if model is None else _last_path(model)
    return any(isinstance(each, nn.Sigmoid) or "sigmoid" in _names_in_forward(each) for each in path)


def modules_of(model: nn.Module | None) -> Iterator[nn.Module]:
    """Yield a model and all its submodules."""
    return iter(()) if model is None else model.modules()


def _last_path(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model, its last submodule, the last of that, and so on."""
    yield model
    for child in [*model.children()][-1:]:
        yield from _last_path(child)


def _names_in_forward(module: nn.Module) -> Sequence[str]:
    forward = inspect.unwrap(type(module).forward)
    return getattr(getattr(forward, "__code__", None), "co_names", ())
