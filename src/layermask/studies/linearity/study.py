"""Linearity: is the answer to the whole picture the sum of the answers to its patches?

Balasubramanian and Feizi 2023, supplement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from layermask._private_torch import MadeFor
from layermask.arguments import kinds
from layermask.arguments.declare import Kind
from layermask.data.source import ImageSource
from layermask.errors import InputError, out_of_memory
from layermask.io.atomic import reason
from layermask.metrics.linearity import headless, measure_linearity
from layermask.segment.segmenters import Grid
from layermask.studies.prepared import PreparedSample
from layermask.studies.protocol import OverRemovals
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded


@dataclass(frozen=True)
class LinearityStudy(OverRemovals):
    """Rows for each picture × removal × patch size: the summed answers to each patch, and the whole.

    `patches` are in pixels. `of` "features", what the model's head reads, or its "logits"; the removals are
    made on the model without its head. `head` is the head's module name, by default the last `nn.Linear`.
    """

    patches: Sequence[int] = (32,)
    of: Literal["features", "logits"] = "features"
    head: str | None = None
    _headless: MadeFor = field(default_factory=MadeFor, init=False, repr=False, compare=False)

    name: ClassVar[str] = "linearity"
    columns: ClassVar[dict[str, str]] = {
        "image": "string",
        "removal": "string",
        "patch": "int32",
        "patches": "int32",
        "l2": "double",
        "cosine": "double",
        "norm": "double",
        "whole_norm": "double",
    }

    checks: ClassVar[dict[str, Kind]] = {
        "patches": partial(kinds.several, kind=kinds.count),
        "of": partial(kinds.choice, known=("features", "logits")),
        "head": kinds.optional(kinds.text),
    }
    labelled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head and self.of == "logits":
            raise InputError(f"head {self.head!r} has no use, as logits are what it answers: leave it out")

    def check(self, source: ImageSource, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this model."""
        crop = loaded.preprocessing.crop
        if max(self.patches) >= max(crop):
            raise InputError(
                f"a patch of {max(self.patches)} pixels is the whole image, which {loaded.name} takes at "
                f"{crop[0]}x{crop[1]}: give smaller patches"
            )
        self._asked(loaded)

    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterator[Row]:
        """Return a row for each removal and patch size; `batch_size` patches at a time."""
        for name in self.removals:
            for patch in self.patches:
                found = self._row(name, self._asked(loaded), scene.x, patch, batch_size)
                yield {"removal": name, **found}

    def _row(self, name: str, asked: Loaded, x: Tensor, patch: int, batch_size: int) -> Row:
        labels = Grid(patch).labels(tuple(x.shape[2:])).to(x.device)
        operator = self.painting(name, asked, labels)
        found = measure_linearity(operator, x, patch, perturbations_per_eval=batch_size)
        numbers = {key: float(getattr(found, key)[0]) for key in ("l2", "cosine", "norm", "whole_norm")}
        return {"patch": patch, "patches": int(labels.max()) + 1, **numbers}

    def _asked(self, loaded: Loaded) -> Loaded:
        """Return the model that answers with what is summed: one for all pictures, as its removals are."""
        if self.of == "logits":
            return loaded
        return self._headless.get((loaded,), None, lambda: self._without_head(loaded))

    def _without_head(self, loaded: Loaded) -> Loaded:
        without = replace(loaded, model=headless(loaded.model, self.head))
        self._try(without)
        return without

    def _try(self, without: Loaded) -> None:
        """Refuse a head that is not the last layer: the model cannot do without another."""
        device = next((each.device for each in without.model.parameters()), torch.device("cpu"))
        x = torch.zeros(1, without.preprocessing.channels, *without.preprocessing.crop, device=device)
        try:
            with torch.no_grad():
                without.model(x)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise InputError(
                f"head {self.head!r}: without it {without.name} cannot be asked ({reason(error)}): give the "
                "module of its last layer"
            ) from error
