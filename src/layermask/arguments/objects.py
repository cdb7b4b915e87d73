"""Models, removals, functions, and other objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from layermask.arguments.numbers import flag, several
from layermask.arguments.refusal import has, wrong_type
from layermask.arguments.words import mapping


def model(name: str, value: Any) -> nn.Module:
    """Return a model, a torch.nn.Module."""
    if isinstance(value, nn.Module):
        return value
    inner = has(value, "model") and isinstance(value.model, nn.Module)
    raise wrong_type(name, value, f"give {'its .model, ' if inner else ''}a torch.nn.Module")


def removal(name: str, value: Any) -> Callable[..., Any]:
    """Return a removal operator, `removal(images, visible) -> answers`, neither a plain model nor a class."""
    if not callable(value) or isinstance(value, type) or not _takes_masks(value):
        raise wrong_type(
            name, value, f"it is called as {name}(images, visible): wrap a model, as in LayerMasking(model)"
        )
    return value


def function(name: str, value: Any, inputs: int | None = None) -> Callable[..., Any]:
    """Return a function. If `inputs` is given, it can be called with that many, and is not a class."""
    if not callable(value) or (inputs is not None and (isinstance(value, type) or not binds(value, inputs))):
        takes = "" if inputs is None else f" of {inputs} argument{'s' * (inputs > 1)}"
        raise wrong_type(name, value, f"give a function{takes}")
    return value


def rules(name: str, value: Any) -> Mapping[Any, Any]:
    """Return rules: torch function -> rule."""
    found = mapping(name, value)
    for pair in found.items():
        for each in pair:
            if not callable(each):
                raise wrong_type(name, each, "give a dict of torch functions to rules, which are functions")
    return found


def progress(name: str, value: Any) -> Any:
    """Return True, False, or a function of one argument, the amount just done."""
    return function(name, value, 1) if callable(value) else flag(name, value)


def device(name: str, value: Any) -> torch.device:
    """Return a device that can hold values, given as text or as torch.device."""
    try:
        found = torch.device(value) if isinstance(value, (str, torch.device)) else None
    except RuntimeError:
        found = None
    if found is None or found.type == "meta":
        raise wrong_type(name, value, 'give a device of torch, as "cpu" or "cuda:0"')
    return found


def picture(name: str, value: Any) -> Any:
    """Return a Pillow image."""
    if not has(value, "convert", "getpixel"):
        raise wrong_type(name, value, "give a Pillow image, as load_image returns or Image.fromarray makes")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    """Return an object of a class, or of one of several."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise wrong_type(name, value, f"give a {' or '.join(each.__name__ for each in kinds)}")
    return value


def instances(name: str, value: Any, kind: type, least: int = 0) -> list[Any]:
    """Return a list of objects of one class."""
    return list(several(name, value, lambda name, item: instance(name, item, kind), least))


def _takes_masks(value: Any) -> bool:
    """Whether the second input is a mask. A second input of a model is optional and named otherwise."""
    if not binds(value, 2):
        return False
    if not isinstance(value, nn.Module):
        return True
    parameters = list(inspect.signature(value.forward).parameters.values())
    second = parameters[1] if len(parameters) > 1 else parameters[0]  # *args may take both
    return second.default is second.empty or second.name in ("visible", "mask", "masks")


def binds(value: Any, inputs: int) -> bool:
    """Whether a function or module can be called with so many inputs."""
    try:
        signature = inspect.signature(value.forward if isinstance(value, nn.Module) else value)
    except (ValueError, TypeError):
        return True  # written in C, without a signature
    try:
        signature.bind(*range(inputs))
    except TypeError:
        return False
    return True
