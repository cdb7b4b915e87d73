"""LIME under each removal, judged by object masks and by what its highest segments were worth.

Balasubramanian and Feizi 2023, section 4.4.2, Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
from layermask.data.source import Sample, Source
from layermask.explain.attribution import Attribution
from layermask.explain.lime import Lime
from layermask.metrics.localisation import alignment, top_k, top_k_jaccard
from layermask.removal.registry import check_name
from layermask.segment.presets import segmented, segmenter
from layermask.segment.segmenters import Segmenter
from layermask.studies.orders import own_seed
from layermask.studies.prepared import object_mask
from layermask.studies.protocol import (
    Operator,
    OverRemovals,
    chances,
    check_each_once,
    check_labels,
    from_table,
    kind_of_labels,
    names_kind,
    whole_chances,
)
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded

Explained = Literal["label", "prediction"]

OUTSIDE, NO_OBJECT, ONE_SEGMENT = "label unlikely", "no object", "one segment"
LEFT_OUT = {
    OUTSIDE: "the label is not among the likeliest classes of the plain model",
    NO_OBJECT: "nothing of the object is within what the model sees",
    ONE_SEGMENT: "there is one segment, and nothing to compare it with",
}
"""Why pictures are left out, by the value of the column `left_out`; it is empty for those that count."""


@dataclass(frozen=True)
class PreparedImage:
    """A picture to be explained: x (1, C, H, W), its object (H, W) bool, label maps (H, W)."""

    sample: Sample
    x: Tensor
    object: Tensor
    segments: dict[str, Tensor]


class Classes(NamedTuple):
    """Of a picture: the label, its place among the classes of the plain model, and the class explained."""

    label: int
    rank: int
    target: int


class _Lime(Lime):
    """LIME that does not warn of too few samples for every picture: the report says it once."""

    def advised(self, n_segments: int) -> int:
        return 0


@dataclass(frozen=True)
class LimeStudy(OverRemovals):
    """Rows for each picture × segmentation × removal, of pictures with object masks.

    LIME explains the label (or, `explain`, the plain model's prediction) by `n_samples` random rows of
    segments, the same ones for every removal. Its `k` highest segments are compared with the object, and
    hidden by the removal `ablation`, whatever found them, to see what the model then predicts. Pictures whose
    label is not among the `among` likeliest classes of the plain model are left out, with a reason.
    """

    segmentations: Sequence[str] = ("paper-lime-quickshift", "paper-grid", "paper-lime-slic")
    n_samples: int = 512
    k: int = 20
    among: int = 3
    ablation: str = "greyout"
    explain: Explained = "label"
    seed: int = 0

    name: ClassVar[str] = "lime"
    columns: ClassVar[dict[str, str]] = {
        "image": "string",
        "segmentation": "string",
        "removal": "string",
        "segments": "int32",
        "object": "double",
        "label": "int32",
        "rank": "int32",
        "target": "int32",
        "left_out": "string",
        "alignment": "double",
        "jaccard": "double",
        "ablated": "int32",
        "right": "bool",
        "r2": "double",
        "seed": "int64",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            segmentations=names_kind,
            n_samples=kinds.count,
            k=kinds.count,
            among=kinds.count,
            ablation=kinds.text,
            explain=partial(kinds.choice, known=get_args(Explained)),
            seed=kinds.seed,
        )
        check_each_once("segmentations", self.segmentations)
        if self.operator is from_table:
            check_name(self.ablation)
        self._segmenters()

    def _segmenters(self) -> dict[str, Segmenter]:
        return {name: segmenter(name) for name in self.segmentations}

    def check(self, source: Source, loaded: Loaded) -> None:
        """Raise `InputError` if the experiment cannot be made with this data and model."""
        source.having("mask")
        check_labels(source, loaded)

    def settings(self, source: Source) -> dict[str, Any]:
        """Return what rows depend on besides the pictures and the model."""
        return {
            "removals": list(self.removals),
            "segmentations": {name: repr(each) for name, each in self._segmenters().items()},
            "n_samples": self.n_samples,
            "k": self.k,
            "among": self.among,
            "ablation": self.ablation,
            "explain": self.explain,
            "seed": self.seed,
            "labels": kind_of_labels(source),
        }

    def prepare(self, sample: Sample, loaded: Loaded) -> PreparedImage:
        """Read and segment a picture.

        Raises:
            ImageError: the picture or its mask cannot be read.
        """
        picture = sample.load_image()
        x = loaded.preprocessing(picture)
        pixels = loaded.preprocessing.picture(x)
        segments = {name: segmented(name, pixels) for name in self.segmentations}
        return PreparedImage(sample, x, object_mask(sample, picture.size, loaded), segments)

    def rows(self, scene: PreparedImage, loaded: Loaded, device: torch.device, batch_size: int) -> list[Row]:
        """Return the rows of one picture, which never depend on another; `batch_size` masks at a time."""
        scene = replace(scene, x=scene.x.to(device))
        classes = self._classes(scene, loaded)
        rows = []
        for segmentation, labels in scene.segments.items():
            common = {
                "image": scene.sample.name,
                "segmentation": segmentation,
                "segments": int(labels.max()) + 1,
                "object": float(scene.object.double().mean()),
                **classes._asdict(),
                "seed": self.seed,
            }
            reason = self._reason(scene, labels, classes)
            if reason:  # what was not measured is null
                found = [{"left_out": reason}] * len(self.removals)
            else:
                found = self._measured(scene, segmentation, loaded, classes, batch_size)
            names = [{"removal": name} for name in self.removals]
            rows += [{**common, **name, **row} for name, row in zip(names, found, strict=True)]
        return rows

    def _classes(self, scene: PreparedImage, loaded: Loaded) -> Classes:
        found = whole_chances(scene.x, loaded)
        prediction = int(found.argmax())
        label = prediction if scene.sample.label is None else scene.sample.label
        rank = 1 + int((found > found[label]).sum())
        return Classes(label, rank, label if self.explain == "label" else prediction)

    def _reason(self, scene: PreparedImage, labels: Tensor, classes: Classes) -> str:
        """Return why the picture does not count, or nothing."""
        if classes.rank > self.among:
            return OUTSIDE
        if not scene.object.any():
            return NO_OBJECT
        return ONE_SEGMENT if int(labels.max()) == 0 else ""

    def _measured(
        self, scene: PreparedImage, segmentation: str, loaded: Loaded, classes: Classes, batch_size: int
    ) -> list[Row]:
        """Return what was found for each removal."""
        labels = scene.segments[segmentation]
        there = labels.to(scene.x.device)
        explained = [
            self._explained(scene, segmentation, self.painting(name, loaded, there), classes, batch_size)
            for name in self.removals
        ]
        visible = torch.cat([~top_k(each.scores[0], self.k)[labels][None, None] for each in explained])
        hiding = self.painting(self.ablation, loaded, there)
        ablated = chances(hiding, scene.x, visible, batch_size).argmax(1).tolist()
        return [self._row(scene, *each, classes.label) for each in zip(explained, ablated, strict=True)]

    def _explained(
        self, scene: PreparedImage, segmentation: str, operator: Operator, classes: Classes, batch_size: int
    ) -> Attribution:
        seed = own_seed(scene.sample, segmentation, self.seed)
        lime = _Lime(operator, n_samples=self.n_samples, seed=seed, perturbations_per_eval=batch_size)
        return lime.attribute(scene.x, classes.target, scene.segments[segmentation])

    def _row(self, scene: PreparedImage, found: Attribution, ablated: int, label: int) -> Row:
        assert found.r2 is not None
        scores, labels = found.scores[0], found.segments
        return {
            "left_out": "",
            "alignment": alignment(scores, labels, scene.object),
            "jaccard": top_k_jaccard(scores, labels, scene.object, self.k),
            "ablated": ablated,
            "right": ablated == label,
            "r2": float(found.r2[0]),
        }
