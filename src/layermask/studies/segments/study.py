"""The segment-removal experiment: what a model says while more and more segments are taken away.

Balasubramanian and Feizi 2023, section 4.1; Jain et al. 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Kind
from layermask.data.source import ImageSource, Sample
from layermask.explain.query_plan import Segments
from layermask.metrics.segment_removal import TENTHS, how_many
from layermask.removal.reading import OutputName
from layermask.removal.registry import REMOVALS
from layermask.studies.orders import (
    GRADIENT,
    MAPS,
    ORDERS,
    UNUSED,
    input_gradient,
    random_order,
    salient_order,
)
from layermask.studies.prepared import PreparedSample
from layermask.studies.protocol import (
    OverRemovals,
    chances,
    label_of,
    names_kind,
    output_name,
)
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded


def _orders(name: str, value: Any) -> tuple[str, ...]:
    return tuple(kinds.known("order", each, ORDERS) for each in names_kind(name, value))


@dataclass(frozen=True)
class Setting:
    """One row of a picture, but for the removal: `mask` is the number of what is shown."""

    segmentation: str
    order: str
    fraction: float
    hidden: int
    segments: int
    mask: int


@dataclass(frozen=True)
class SegmentStudy(OverRemovals):
    """Rows for each picture × removal × segmentation × order × fraction.

    `fractions` of the segments are hidden, int(fraction × segments) of them. Salient orders follow the
    saliency maps of the data; where it has none, the input gradient of the plain model, which favours no
    removal and costs one backward pass. Where the data has no labels, the prediction of the plain model is
    the label.
    """

    segmentations: Sequence[str] = ("grid",)
    orders: Sequence[str] = ("random",)
    fractions: Sequence[float] = TENTHS
    seed: int = 0
    output: OutputName = "probability"

    name: ClassVar[str] = "segments"
    columns: ClassVar[dict[str, str]] = {
        "image": "string",
        "removal": "string",
        "segmentation": "string",
        "order": "string",
        "ranking": "string",
        "fraction": "double",
        "hidden": "int32",
        "segments": "int32",
        "label": "int32",
        "prediction": "int32",
        "confidence": "float",
        "label_confidence": "float",
        "unchanged": "bool",
        "seed": "int64",
    }

    checks: ClassVar[dict[str, Kind]] = {
        "segmentations": names_kind,
        "orders": _orders,
        "fractions": partial(kinds.numbers, low=0, high=1),
        "seed": kinds.seed,
        "output": output_name,
    }

    @property
    def _salient(self) -> bool:
        return any(order != "random" for order in self.orders)

    def follows_saliency(self, sample: Sample) -> bool:
        """Whether salient orders follow a map that the data has."""
        return self._salient and sample.saliency is not None

    def _ranking(self, source: ImageSource) -> str:
        if not self._salient:
            return UNUSED
        return MAPS if source.count("saliency") else GRADIENT

    def check(self, source: ImageSource, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this data and model."""
        super().check(source, loaded)
        if self._ranking(source) == MAPS:
            source.having("saliency")

    def settings(self, source: ImageSource) -> dict[str, Any]:
        """Return what rows depend on besides the pictures and the model."""
        own = super().settings(source)
        labels = own.pop("labels")  # stands last
        return {**own, "saliency": self._ranking(source), "labels": labels}

    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterator[Row]:
        """Return a row for each removal, segmentation, order and fraction."""
        settings, masks = self._settings_and_masks(scene, loaded)
        label = label_of(scene.sample, scene.x, loaded)
        for name in self.removals:
            for segmentation in self._groups(name):
                group = [each for each in settings if segmentation in (None, each.segmentation)]
                numbers = sorted({0, *(each.mask for each in group)})
                segments = scene.segments[segmentation].to(scene.x.device) if segmentation else None
                found = chances(
                    self.made(name, loaded, segments), scene.x, masks[numbers], batch_size, self.output
                )
                answers = dict(zip(numbers, found, strict=True))
                for each in group:
                    yield {"removal": name, "label": label, **self._row(scene, each, label, answers)}

    def _groups(self, name: str) -> Sequence[str | None]:
        """A removal that paints by segments is asked about each segmentation; others about all at once."""
        known = REMOVALS.get(name)
        return self.segmentations if known is not None and known.needs_segments else [None]

    def _settings_and_masks(self, scene: PreparedSample, loaded: Loaded) -> tuple[list[Setting], Tensor]:
        """Return the settings, and the masks (M, 1, H, W) that they number; mask 0 shows everything."""
        saliency = scene.saliency
        if saliency is None and self._salient:
            saliency = input_gradient(loaded, scene.x)
        settings: list[Setting] = []
        whole = torch.ones(1, 1, *scene.x.shape[2:], dtype=torch.bool)
        masks = {_bits(whole): (0, whole)}  # each once: nothing hidden, everything hidden, ... recur
        for segmentation, labels in scene.segments.items():
            shown = Segments(labels, torch.device("cpu"))
            for order in self.orders:
                rank = self._rank(scene.sample, segmentation, order, labels, saliency)
                for fraction in self.fractions:
                    hidden = how_many(fraction, shown.count)
                    mask = shown.masks(rank[None] >= hidden)
                    number, _ = masks.setdefault(_bits(mask), (len(masks), mask))
                    settings.append(Setting(segmentation, order, fraction, hidden, shown.count, number))
        return settings, torch.cat([mask for _, mask in masks.values()])

    def _rank(
        self, sample: Sample, segmentation: str, order: str, labels: Tensor, saliency: Tensor | None
    ) -> Tensor:
        """Return the place (S,) of each segment in the order in which they are hidden."""
        if order == "random":
            return random_order(int(labels.max()) + 1, sample, segmentation, self.seed).argsort()
        assert saliency is not None
        return salient_order(labels, saliency, order == "salient-first").argsort()

    def _row(self, scene: PreparedSample, setting: Setting, label: int, answers: dict[int, Tensor]) -> Row:
        found = answers[setting.mask]
        prediction = int(found.argmax())
        salient = MAPS if scene.saliency is not None else GRADIENT
        return {
            "segmentation": setting.segmentation,
            "order": setting.order,
            "ranking": "random" if setting.order == "random" else salient,
            "fraction": setting.fraction,
            "hidden": setting.hidden,
            "segments": setting.segments,
            "prediction": prediction,
            "confidence": float(found[prediction]),
            "label_confidence": float(found[label]),
            "unchanged": prediction == int(answers[0].argmax()),
            "seed": self.seed,
        }


def _bits(mask: Tensor) -> bytes:
    return mask.numpy().tobytes()
