"""The models that are timed, with random weights: these cost what trained ones do."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from layermask.errors import InputError


class NotHere(InputError):
    """A model whose library is not installed."""


def _resnet50() -> nn.Module:
    try:
        return _torchvision("resnet50")
    except (ImportError, RuntimeError):
        from resnet import resnet50

        return resnet50()


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None)


def _vit_small() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch16_224", pretrained=False)


def _efficientnet_lite0() -> nn.Module:
    from layermask import load

    return load("builtin").model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": _resnet50,
    "convnext_tiny": lambda: _torchvision("convnext_tiny"),
    "mobilenet_v2": lambda: _torchvision("mobilenet_v2"),
    "densenet121": lambda: _torchvision("densenet121"),
    "efficientnet_lite0": _efficientnet_lite0,
    "vit_small": _vit_small,
}


def build(name: str) -> nn.Module:
    """Return the model in eval mode.

    Raises:
        NotHere: the library that has it is not installed.
    """
    try:
        return MODELS[name]().eval()
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise NotHere(f"{name} is left out: {str(error).splitlines()[0]}") from error
