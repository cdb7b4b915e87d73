"""What experiments over removals share: operators by name, labels, and the model's probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Kind, check_fields
from layermask.data.source import ImageSource, Sample
from layermask.errors import InputError
from layermask.io.record import engine_of
from layermask.removal.query import Unmasked, answers, batches
from layermask.removal.reading import OUTPUTS, OutputName, Reading
from layermask.removal.registry import (
    REMOVALS,
    MadeOnce,
    MakeOperator,
    check_name,
    from_table,
    paints_segments,
)
from layermask.segment.presets import segmented, segmenter
from layermask.segment.segmenters import Segmenter
from layermask.studies.orders import saliency_map
from layermask.studies.prepared import PreparedSample, object_mask
from layermask.studies.store import Row
from layermask.zoo.labels import short
from layermask.zoo.loaded import Loaded

Operator = Callable[..., Any]

OF_THE_DATA, OF_THE_MODEL = "of the data", "predictions of the plain model"
"""What labels are, in the settings."""


@dataclass(frozen=True)
class OverRemovals(ABC):
    """An experiment that compares `removals`. Its fields are its settings, and are checked by `checks`.

    `operator` makes the removal of a name: give your own, with names of your own, for variants.
    """

    removals: Sequence[str] = ("layermask", "greyout", "blackout")
    operator: MakeOperator = field(default=from_table, compare=False, kw_only=True)
    _made: MadeOnce = field(init=False, repr=False, compare=False)

    name: ClassVar[str]
    columns: ClassVar[dict[str, str]]
    checks: ClassVar[dict[str, Kind]] = {}
    """Of the fields that an experiment adds. What is a tuple holds each value once."""
    labelled: ClassVar[bool] = True
    """Whether labels matter: those of the data or, where it has none, the plain model's predictions."""
    objects: ClassVar[bool] = False
    """Whether pictures need object masks."""

    def __post_init__(self) -> None:
        check_fields(self, removals=names_kind, operator=kinds.function, **self.checks)
        object.__setattr__(self, "_made", MadeOnce(self.operator))
        for name, value in self._own_settings().items():
            if isinstance(value, tuple):
                check_each_once(name, value)
        if self.operator is from_table:
            list(map(check_name, self.removals))
        self._segmenters()

    def _own_settings(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.compare}

    @property
    def _segmentations(self) -> Sequence[str]:
        return getattr(self, "segmentations", ())

    def _segmenters(self) -> dict[str, Segmenter]:
        return {name: segmenter(name) for name in self._segmentations}

    def check(self, source: ImageSource, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this data and model."""
        if self.objects:
            source.having("mask")
        if self.labelled:
            check_labels(source, loaded)

    def settings(self, source: ImageSource) -> dict[str, Any]:
        """Return what rows depend on besides the pictures and the model."""
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in self._own_settings().items()}
        if self._segmentations:
            own["segmentations"] = {name: repr(each) for name, each in self._segmenters().items()}
        return own | ({"labels": kind_of_labels(source)} if self.labelled else {})

    def follows_saliency(self, sample: Sample) -> bool:
        """Whether the saliency map of a picture is needed."""
        return False

    def prepare(self, sample: Sample, loaded: Loaded) -> PreparedSample:
        """Read a picture, and what belongs to it, and segment it.

        Raises:
            ImageError: one of its files cannot be read.
        """
        picture = sample.load_image()
        x = loaded.preprocessing(picture)
        pixels = loaded.preprocessing.picture(x) if self._segmentations else None
        return PreparedSample(
            sample,
            x,
            {name: segmented(name, pixels) for name in self._segmentations},
            object_mask(sample, picture.size, loaded) if self.objects else None,
            saliency_map(sample, picture.size, loaded) if self.follows_saliency(sample) else None,
        )

    def rows(self, scene: PreparedSample, loaded: Loaded, device: torch.device, batch_size: int) -> list[Row]:
        """Return the rows of one picture, which never depend on another; `batch_size` masks at a time."""
        found = self.found(replace(scene, x=scene.x.to(device)), loaded, batch_size)
        return [{"image": scene.sample.name, **row} for row in found]

    @abstractmethod
    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterable[Row]:
        """Return the rows of one picture, but for its name."""

    def made(self, name: str, loaded: Loaded, segments: Tensor | None = None) -> Operator:
        """Return a removal, made once for all pictures where it can be: some try themselves out at first."""
        return self._made(name, loaded, segments)

    @property
    def engine_used(self) -> str | None:
        """Which engine answered for the removals made so far; see `record.engine_of`."""
        return engine_of(*self._made)

    def painting(self, name: str, loaded: Loaded, segments: Tensor) -> Operator:
        """Return a removal that, if it paints segments, paints these (H, W), on the device of the picture."""
        return self.made(name, loaded, segments if name in REMOVALS and paints_segments(name) else None)


output_name = partial(kinds.choice, known=OUTPUTS)
"""What of a model's scores an experiment reads, by its name."""


def names_kind(name: str, value: Any) -> tuple[str, ...]:
    """Return names; `check_each_once` and the tables of names say which."""
    return kinds.several(name, value, kinds.text, least=0)


def check_each_once(name: str, values: Sequence[Any]) -> None:
    """Refuse no values, and a value given twice."""
    if not values or len(set(values)) < len(values):
        raise InputError(f"{name} are {', '.join(map(str, values)) or 'none'}: give some, each once")


def check_labels(source: ImageSource, loaded: Loaded) -> None:
    """Refuse labels that only some pictures have, or that the model has no class for."""
    if source.count("label"):
        source.having("label")
    classes = len(loaded.labels)
    alien = [s for s in source.samples if s.label is not None and not 0 <= s.label < classes]
    if alien:
        raise InputError(
            f"image {alien[0].name} has label {alien[0].label} and {loaded.name} has {classes} classes "
            f"({len(alien)} such images): give the data that the model is for"
        )


def kind_of_labels(source: ImageSource) -> str:
    return OF_THE_DATA if source.count("label") else OF_THE_MODEL


def label_of(sample: Sample, x: Tensor, loaded: Loaded) -> int:
    """Return the label of the data or, where it has none, the plain model's prediction for x (1, C, H, W)."""
    if sample.label is not None:
        return sample.label
    return int(whole_chances(x, loaded).argmax())


def whole_chances(x: Tensor, loaded: Loaded, output: OutputName = "probability") -> Tensor:
    """Return the plain model's probabilities (classes,) for the picture x (1, C, H, W)."""
    return chances(Unmasked(loaded.model), x, torch.ones_like(x[:, :1], dtype=torch.bool), 1, output)[0]


def chances(
    operator: Operator, x: Tensor, masks: Tensor, batch_size: int, output: OutputName = "probability"
) -> Tensor:
    """Return the probabilities (M, classes) for the picture x (1, C, H, W) under masks (M, 1, H, W).

    Float64, on the CPU; `batch_size` masks at a time. `output`: another of `OUTPUTS` than probabilities.
    """
    asked = answers(operator, batches(x, masks, batch_size), compared=True)
    logits = torch.cat([found.cpu() for found in asked]).double()
    return Reading(operator, output, compared=True).activated(logits)


def common_words(content: Mapping[str, Any], accuracy: str = "accuracy") -> list[str]:
    """Return what is to be said of every experiment: how many images of what, and whose labels.

    `accuracy`: what the numbers are called that are agreement where the data has no labels.
    """
    settings, skipped = content["settings"], content["skipped"]
    lines = [f"{content['images']} images of {settings['data']['name']}, model {settings['model']['name']}."]
    if skipped:
        lines.append(f"{len(skipped)} images were skipped: {skipped[0]}")
    if settings.get("labels", OF_THE_DATA) != OF_THE_DATA:
        lines.append(f"The data has no labels: {accuracy} is agreement with the plain model's prediction.")
    return lines


def figure_title(content: Mapping[str, Any]) -> str:
    """Return the title of a figure: the model and the data."""
    return f"{content['settings']['model']['name']}, {content['settings']['data']['name']}"


def class_names(content: Mapping[str, Any]) -> list[str]:
    """Return the first name of each class of the model."""
    return [short(name) for name in content["classes"]]
