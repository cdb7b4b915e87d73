"""The segment-removal experiment: what a model says while more and more segments are taken away.

Balasubramanian and Feizi 2023, section 4.1; Jain et al. 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
from layermask.data.source import Sample, Source
from layermask.explain.query_plan import Segments
from layermask.metrics.segment_removal import TENTHS
from layermask.removal.registry import REMOVALS
from layermask.segment.presets import segmented, segmenter
from layermask.segment.segmenters import Segmenter
from layermask.studies.orders import (
    GRADIENT,
    MAPS,
    ORDERS,
    UNUSED,
    input_gradient,
    random_order,
    saliency_map,
    salient_order,
)
from layermask.studies.protocol import (
    OverRemovals,
    chances,
    check_each_once,
    check_labels,
    kind_of_labels,
    label_of,
    names_kind,
)
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded


@dataclass(frozen=True)
class PreparedImage:
    """A picture to be asked about: x (1, C, H, W), label maps (H, W), saliency (H, W) if the data has it."""

    sample: Sample
    x: Tensor
    segments: dict[str, Tensor]
    saliency: Tensor | None


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

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = partial(kinds.numbers, low=0, high=1)
        check_fields(self, segmentations=names_kind, orders=names_kind, fractions=fractions, seed=kinds.seed)
        for name in ("segmentations", "orders", "fractions"):
            check_each_once(name, getattr(self, name))
        for order in self.orders:
            kinds.known("order", order, ORDERS)
        self._segmenters()

    def _segmenters(self) -> dict[str, Segmenter]:
        return {name: segmenter(name) for name in self.segmentations}

    @property
    def _salient(self) -> bool:
        return any(order != "random" for order in self.orders)

    def _ranking(self, source: Source) -> str:
        if not self._salient:
            return UNUSED
        return MAPS if source.count("saliency") else GRADIENT

    def check(self, source: Source, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this data and model."""
        check_labels(source, loaded)
        if self._ranking(source) == MAPS:
            source.having("saliency")

    def settings(self, source: Source) -> dict[str, Any]:
        """Return what rows depend on besides the pictures and the model."""
        return {
            "removals": list(self.removals),
            "segmentations": {name: repr(each) for name, each in self._segmenters().items()},
            "orders": list(self.orders),
            "fractions": list(self.fractions),
            "seed": self.seed,
            "saliency": self._ranking(source),
            "labels": kind_of_labels(source),
        }

    def prepare(self, sample: Sample, loaded: Loaded) -> PreparedImage:
        """Read and segment a picture.

        Raises:
            ImageError: the picture or its saliency map cannot be read.
        """
        picture = sample.load_image()
        x = loaded.preprocessing(picture)
        pixels = loaded.preprocessing.picture(x)
        segments = {name: segmented(name, pixels) for name in self.segmentations}
        known = sample.saliency is not None and self._salient
        return PreparedImage(
            sample, x, segments, saliency_map(sample, picture.size, loaded) if known else None
        )

    def rows(self, scene: PreparedImage, loaded: Loaded, device: torch.device, batch_size: int) -> list[Row]:
        """Return the rows of one picture, which never depend on another; `batch_size` masks at a time."""
        scene = replace(scene, x=scene.x.to(device))
        settings, masks = self._settings_and_masks(scene, loaded)
        label = label_of(scene.sample, scene.x, loaded)
        rows = []
        for name in self.removals:
            for segmentation in self._groups(name):
                group = [each for each in settings if segmentation in (None, each.segmentation)]
                numbers = sorted({0, *(each.mask for each in group)})
                segments = scene.segments[segmentation].to(device) if segmentation else None
                operator = self.made(name, loaded, segments)
                found = chances(operator, scene.x, masks[numbers], batch_size)
                answers = dict(zip(numbers, found, strict=True))
                rows += [self._row(scene, name, each, label, answers) for each in group]
        return rows

    def _groups(self, name: str) -> Sequence[str | None]:
        """A removal that paints by segments is asked about each segmentation; others about all at once."""
        known = REMOVALS.get(name)
        return self.segmentations if known is not None and known.needs_segments else [None]

    def _settings_and_masks(self, scene: PreparedImage, loaded: Loaded) -> tuple[list[Setting], Tensor]:
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
                    hidden = int(fraction * shown.count + 1e-9)  # 0.7 * 90 is 62.999...
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

    def _row(
        self, scene: PreparedImage, name: str, setting: Setting, label: int, answers: dict[int, Tensor]
    ) -> Row:
        found = answers[setting.mask]
        prediction = int(found.argmax())
        salient = MAPS if scene.saliency is not None else GRADIENT
        return {
            "image": scene.sample.name,
            "removal": name,
            "segmentation": setting.segmentation,
            "order": setting.order,
            "ranking": "random" if setting.order == "random" else salient,
            "fraction": setting.fraction,
            "hidden": setting.hidden,
            "segments": setting.segments,
            "label": label,
            "prediction": prediction,
            "confidence": float(found[prediction]),
            "label_confidence": float(found[label]),
            "unchanged": prediction == int(answers[0].argmax()),
            "seed": self.seed,
        }


def _bits(mask: Tensor) -> bytes:
    return mask.numpy().tobytes()
