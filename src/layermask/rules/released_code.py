"""What the paper's released code does differently from model file to model file (`compat="release"`).

Its joins differ by architecture, some of its forks drop the mask before the global average pool, and its
vision transformers keep a patch only if all of its pixels are visible. (What it does the same everywhere,
such as its epsilons, stands beside the rule concerned.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from layermask.core.masked import Masked, zero_hidden
from layermask.core.rule_table import RULES
from layermask.rules.pool import bins
from layermask.rules.shape import cat


def unscaled_pool(input: Masked, output_size: Any) -> Masked:
    """The average with zeros at hidden cells, not rescaled."""
    visible, is_padding = bins(input, 2, output_size)
    return Masked(F.adaptive_avg_pool2d(zero_hidden(input), output_size), visible, is_padding=is_padding)


_POOL = {F.adaptive_avg_pool2d: unscaled_pool}
_WHOLE_PATCHES = {F.conv2d: partial(RULES[F.conv2d], growth="all")}
RELEASE: dict[str, Mapping[Callable, Callable]] = {
    "torchvision.AlexNet": _POOL,
    "torchvision.DenseNet": _POOL | {torch.cat: partial(cat, how="majority")},
    "torchvision.SqueezeNet": _POOL | {torch.cat: partial(cat, how="union")},
    "torchvision.VisionTransformer": _WHOLE_PATCHES,
    "timm.ResNet": _POOL,
    "timm.VisionTransformer": _WHOLE_PATCHES,
}
"""Library and class of a model -> the rules it had there."""


def release_rules(model: nn.Module) -> Mapping[Callable, Callable]:
    """The rules of the model's fork in the released code; none where it had no fork or differs nowhere."""
    cls = type(model)
    return RELEASE.get(f"{cls.__module__.split('.')[0]}.{cls.__name__}", {})
