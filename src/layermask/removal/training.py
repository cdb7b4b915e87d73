"""The warning for models in training mode, which draw at random or change their own statistics."""

from __future__ import annotations

import warnings
from numbers import Real
from types import CodeType

import torch
from torch import nn


class TrainingNotice:
    """Warns once if some module of `model` is in training mode and acts differently there."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(name, m) for name, m in model.named_modules() if differs_in_training(m)]
        self.told = False

    def applies(self) -> bool:
        return any(module.training for _, module in self.modules)

    def __call__(self) -> None:
        if self.told or torch.compiler.is_compiling() or not self.applies():
            return
        self.told = True
        warnings.warn(
            f"the model is in training mode: {self._reason()}. Call model.eval() for the answers that it was "
            "trained to give.",
            stacklevel=4,
        )

    def _reason(self) -> str:
        named = [(name, module) for name, module in self.modules if module.training]
        if any(isinstance(module, BATCH_NORMS) for _, module in named):
            return "batch norm takes its statistics from this batch and updates its running ones"
        name, module = named[0]
        return f"the {type(module).__name__}{name and f' {name!r}'} acts differently there, perhaps at random"


def differs_in_training(module: nn.Module) -> bool:
    """Whether `training` changes what the module itself does: its class reads the flag, and no rate is 0."""
    if isinstance(module, BATCH_NORMS):
        return module.track_running_stats
    rates = [getattr(module, name, None) for name in ("p", "drop_prob", "dropout")]
    rates = [rate for rate in rates if isinstance(rate, Real)]
    return any(rates) if rates else _reads_training(type(module))


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _reads_training(cls: type) -> bool:
    """Whether a method that the class defines reads `training`; those of nn.Module, which set it, aside."""
    classes = [base for base in cls.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    codes = [getattr(f, "__code__", None) for base in classes for f in vars(base).values()]
    return any(isinstance(c, CodeType) and "training" in c.co_names and c.co_name != "train" for c in codes)
