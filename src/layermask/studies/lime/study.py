"""LIME under each removal, judged by object masks and by what its highest segments were worth.

Balasubramanian and Feizi 2023, section 4.4.2, Table 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple, get_args

from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Kind
from layermask.explain.attribution import Attribution
from layermask.explain.lime import Lime
from layermask.metrics.localisation import alignment, classes_without_top, top_k_jaccard
from layermask.removal.reading import OutputName
from layermask.removal.registry import check_name
from layermask.studies.orders import own_seed
from layermask.studies.prepared import PreparedSample
from layermask.studies.protocol import (
    Operator,
    OverRemovals,
    from_table,
    names_kind,
    output_name,
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
    output: OutputName = "probability"

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

    checks: ClassVar[dict[str, Kind]] = {
        "segmentations": names_kind,
        "n_samples": kinds.count,
        "k": kinds.count,
        "among": kinds.count,
        "ablation": kinds.text,
        "explain": partial(kinds.choice, known=get_args(Explained)),
        "seed": kinds.seed,
        "output": output_name,
    }
    objects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator is from_table:
            check_name(self.ablation)

    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterator[Row]:
        """Return a row for each segmentation and removal."""
        classes = self._classes(scene, loaded)
        assert scene.object is not None
        for segmentation, labels in scene.segments.items():
            common = {
                "segmentation": segmentation,
                "segments": int(labels.max()) + 1,
                "object": float(scene.object.double().mean()),
                **classes._asdict(),
                "seed": self.seed,
            }
            reason = self._reason(scene.object, labels, classes)
            if reason:  # what was not measured is null
                found = [{"left_out": reason}] * len(self.removals)
            else:
                found = self._measured(scene, segmentation, loaded, classes, batch_size)
            for name, row in zip(self.removals, found, strict=True):
                yield {**common, "removal": name, **row}

    def _classes(self, scene: PreparedSample, loaded: Loaded) -> Classes:
        found = whole_chances(scene.x, loaded, self.output)
        prediction = int(found.argmax())
        label = prediction if scene.sample.label is None else scene.sample.label
        rank = 1 + int((found > found[label]).sum())
        return Classes(label, rank, label if self.explain == "label" else prediction)

    def _reason(self, object_: Tensor, labels: Tensor, classes: Classes) -> str:
        """Return why the picture does not count, or nothing."""
        if classes.rank > self.among:
            return OUTSIDE
        if not object_.any():
            return NO_OBJECT
        return ONE_SEGMENT if int(labels.max()) == 0 else ""

    def _measured(
        self, scene: PreparedSample, segmentation: str, loaded: Loaded, classes: Classes, batch_size: int
    ) -> list[Row]:
        """Return what was found for each removal."""
        there = scene.segments[segmentation].to(scene.x.device)
        explained = [
            self._explained(scene, segmentation, self.painting(name, loaded, there), classes, batch_size)
            for name in self.removals
        ]
        hiding = self.painting(self.ablation, loaded, there)
        ablated = classes_without_top(hiding, scene.x, explained, self.k, 0, batch_size).tolist()
        return [self._row(scene, *each, classes.label) for each in zip(explained, ablated, strict=True)]

    def _explained(
        self, scene: PreparedSample, segmentation: str, operator: Operator, classes: Classes, batch_size: int
    ) -> Attribution:
        seed = own_seed(scene.sample, segmentation, self.seed)
        lime = _Lime(
            operator,
            n_samples=self.n_samples,
            seed=seed,
            perturbations_per_eval=batch_size,
            output=self.output,
        )
        return lime.attribute(scene.x, classes.target, scene.segments[segmentation])

    def _row(self, scene: PreparedSample, found: Attribution, ablated: int, label: int) -> Row:
        assert found.r2 is not None and scene.object is not None
        scores, labels = found.scores[0], found.segments
        return {
            "left_out": "",
            "alignment": alignment(scores, labels, scene.object),
            "jaccard": top_k_jaccard(scores, labels, scene.object, self.k),
            "ablated": ablated,
            "right": ablated == label,
            "r2": float(found.r2[0]),
        }
