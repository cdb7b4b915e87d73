"""Detectors of torchvision: the steps that write into new tensors, and the boxes that a condition picks.

Nothing of the user's model is changed: modules on the way to these steps are shallow copies, for one call,
that share every weight and hook.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layermask.core.masked import Masked, masked_in, plain_of, replace_masked, zero_hidden
from layermask.core.outputs import to_plain
from layermask.core.rule_table import RULES
from layermask.rules.regions import bins_of


def is_detector(model: nn.Module) -> bool:
    """Whether it, or a part of it, is a detector as torchvision writes them."""
    return any(_change(module) is not None for module in model.modules())


def passable(module: nn.Module) -> nn.Module:
    """The detector with the steps that masked values cannot pass written for them."""
    parts = {name: part if part is None else passable(part) for name, part in module._modules.items()}
    change = _change(module)
    if change is None and all(parts[name] is part for name, part in module._modules.items()):
        return module
    new = copy.copy(module)
    new.__dict__["_modules"] = parts
    if change is not None:
        change(new, module)
    return new


def _change(module: nn.Module) -> Callable | None:
    cls = type(module)
    return _CHANGES.get(cls.__name__) if cls.__module__.startswith("torchvision.") else None


def _batched(new: nn.Module, transform: Any) -> None:
    """Images of several sizes in one batch: the cells around them are padding."""

    def batch_images(images: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if not masked_in(images):
            return transform.batch_images(images, *args, **kwargs)
        shown = [_visible(image) for image in images]
        value, visible, image = (
            transform.batch_images(each, *args, **kwargs)
            for each in (
                replace_masked(list(images), zero_hidden),
                shown,
                [torch.ones_like(m) for m in shown],
            )
        )
        padding = None if image.all() else ~image
        return _in_pass(Masked(value, visible | ~image, is_padding=padding), masked_in(images))

    new.__dict__["batch_images"] = batch_images
    new.__dict__["postprocess"] = lambda result, *sizes: transform.postprocess(to_plain(result), *sizes)


def _visible(image: Any) -> Tensor:
    """Its mask (1, H, W)."""
    mask = image.visible if isinstance(image, Masked) else torch.ones_like(image[:1], dtype=torch.bool)
    return mask.expand(-1, *image.shape[1:])


def _pooled(new: nn.Module, pooler: nn.Module) -> None:
    """Boxes cut out of the maps of several resolutions, each out of one."""

    def forward(x: Mapping[str, Any], boxes: Sequence[Any], image_shapes: Any) -> Any:
        if not masked_in(dict(x), list(boxes)):
            return pooler(x, boxes, image_shapes)
        plain = list(map(plain_of, boxes))

        def cut(maps: list[Tensor]) -> Tensor:
            kind = maps[0].dtype
            return pooler(dict(zip(x, maps, strict=True)), [b.to(kind) for b in plain], image_shapes)

        out = bins_of(cut, list(x.values()), torch.cat(list(boxes)), shares=True)[0]
        return _in_pass(out, masked_in(dict(x), list(boxes)))

    new.__dict__["forward"] = forward


def _detected(new: nn.Module, heads: Any) -> None:
    """Boxes that were chosen are all visible."""
    new.__dict__["postprocess_detections"] = lambda *args: to_plain(heads.postprocess_detections(*args))


def _pointed(new: nn.Module, predictor: nn.Module) -> None:
    """Heat maps of keypoints, which are no likelier at a hidden place than at any visible one."""

    def forward(x: Any) -> Any:
        out = predictor(x)
        if not isinstance(out, Masked):
            return out
        return torch.where(out.visible, out.value, zero_hidden(out.amin((2, 3), True)))

    new.__dict__["forward"] = forward


def _in_pass(out: Masked, inputs: list[Masked]) -> Masked:
    """The value as part of the pass that its inputs belong to, as a rule's result is."""
    out.forward_pass, out.made = inputs[0].forward_pass, out.value
    return out


_CHANGES: dict[str, Callable[[nn.Module, Any], None]] = {
    "GeneralizedRCNNTransform": _batched,
    "MultiScaleRoIAlign": _pooled,
    "RoIHeads": _detected,
    "KeypointRCNNPredictor": _pointed,
}
"""Class of torchvision -> what to write for masked values in a shallow copy of such a module."""


def _picked(input: Any, index: Any) -> Any:
    """What a condition picks: visible entries where it holds, as `torch.where` tells their places."""
    if isinstance(index, Masked) and index.value.dtype is torch.bool:
        index = zero_hidden(index).nonzero(as_tuple=True)
    return RULES[Tensor.__getitem__](input, index) if isinstance(input, Masked) else input[index]


RULES_OF_DETECTORS: Mapping[Callable, Callable] = {Tensor.__getitem__: _picked}
