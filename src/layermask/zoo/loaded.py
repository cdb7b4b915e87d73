"""`Loaded`: a model with what is needed to ask it about a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
from layermask.errors import ModelError
from layermask.outputs import scores
from layermask.zoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, the preprocessing it was trained with, and one name per class."""

    model: nn.Module = field(repr=False)
    preprocessing: Preprocessing
    labels: tuple[str, ...] = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        check_fields(
            self,
            model=kinds.model,
            preprocessing=partial(kinds.instance, kind=Preprocessing),
            labels=partial(kinds.several, kind=kinds.text, least=0),
            name=kinds.text,
        )


def count_classes(model: nn.Module, preprocessing: Preprocessing, name: str) -> int:
    """Return the number of classes of a model of which nothing is known, by asking it once."""
    x = torch.zeros(1, preprocessing.channels, *preprocessing.crop)
    try:
        with torch.no_grad():
            output = model.eval()(x)
    except Exception as error:
        raise ModelError(
            f"model {name!r} does not take a {tuple(x.shape)} tensor ({str(error).splitlines()[0]}): return "
            "layermask.Loaded instead, with the preprocessing it needs"
        ) from error
    return scores(output).shape[-1]
