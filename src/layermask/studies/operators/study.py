"""Which removal can be trusted: what it does to answers by the mere act of hiding, and how it ranks methods.

R-OMS of Bluecher et al. 2024 (arXiv 2401.06654); bias and noise after Hsieh et al. 2026 (AIM, arXiv
2605.16905), as `metrics.operators` defines them.
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
from layermask.explain.attribution import Attribution
from layermask.metrics.flipping import Order, flipping_curves
from layermask.metrics.operators import RandomBias, random_scores
from layermask.removal.reading import OutputName
from layermask.removal.registry import check_name
from layermask.studies.operators.attributions import JUDGE, Case, Scores, method
from layermask.studies.orders import own_seed
from layermask.studies.prepared import PreparedSample
from layermask.studies.protocol import OverRemovals, from_table, names_kind, output_name, whole_chances
from layermask.studies.store import Row
from layermask.zoo.loaded import Loaded

RANDOM_ORDERS = "random orders"
"""The `method` of rows that judge the removal itself."""
OF_REMOVALS, OF_METHODS = ("r-oms", "random-bias", "random-noise"), ("deletion", "lerf", "srg")
"""The values of `measure`, by their names in `layermask.metrics.METRICS`."""


@dataclass(frozen=True)
class OperatorStudy(OverRemovals):
    """Rows for each picture × segmentation × removal × method × measure.

    Every removal hides the segments, in `steps` steps, in `n_orders` random orders and their reverses, and
    then in the orders of the scores of each of `methods` (see `evaluate.methods`), the highest first and the
    lowest first. The orders, and the scores of methods that do not ask the judging removal, are the same for
    all. Explained is the plain model's prediction. `samples`: masks per segment of methods that draw them.
    """

    segmentations: Sequence[str] = ("slic:50",)
    methods: Sequence[str] = (
        "random",
        "gradient",
        "input-x-gradient",
        "leave-one-out@greyout",
        "leave-one-out@layermask",
        "lime@greyout",
        "lime@layermask",
    )
    steps: int = 10
    n_orders: int = 5
    samples: int = 4
    seed: int = 0
    output: OutputName = "probability"

    name: ClassVar[str] = "operators"
    columns: ClassVar[dict[str, str]] = {
        "image": "string",
        "segmentation": "string",
        "removal": "string",
        "method": "string",
        "measure": "string",
        "value": "double",
        "segments": "int32",
        "target": "int32",
        "seed": "int64",
    }

    checks: ClassVar[dict[str, Kind]] = {
        "segmentations": names_kind,
        "methods": names_kind,
        "steps": kinds.count,
        "n_orders": partial(kinds.count, high=100_000),
        "samples": partial(kinds.count, low=2),
        "seed": kinds.seed,
        "output": output_name,
    }
    labelled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        asking = [each.asks for each in map(method, self.methods) if each.asks not in (None, JUDGE)]
        if self.operator is from_table:
            list(map(check_name, asking))

    def found(self, scene: PreparedSample, loaded: Loaded, batch_size: int) -> Iterator[Row]:
        """Return a row for each segmentation, removal, method and measure."""
        x, target = scene.x, int(whole_chances(scene.x, loaded).argmax())
        for segmentation, labels in scene.segments.items():
            operator = partial(self.painting, loaded=loaded, segments=labels.to(x.device))
            seed = own_seed(scene.sample, segmentation, self.seed)
            case = Case(loaded, x, labels, target, operator, self.samples, seed, batch_size, self.output)
            common = {"segmentation": segmentation, "segments": case.count, "target": target}
            for row in self._judged(case):
                yield {**common, **row, "seed": self.seed}

    def _judged(self, case: Case) -> list[Row]:
        """Return the rows of one segmentation; of one segment nothing can be said, and values are null."""
        rows = []
        scores = Scores(case, self.methods) if case.count > 1 else None
        for judge in self.removals:
            found = self._found(case, judge, scores.by(judge)) if scores else self._nothing()
            rows += [
                {"removal": judge, "method": name, "measure": measure, "value": value}
                for name, measures in found.items()
                for measure, value in measures.items()
            ]
        return rows

    def _nothing(self) -> dict[str, dict[str, Any]]:
        of_methods = {name: dict.fromkeys(OF_METHODS) for name in self.methods}
        return {RANDOM_ORDERS: dict.fromkeys(OF_REMOVALS), **of_methods}

    def _found(self, case: Case, judge: str, scores: Tensor) -> dict[str, dict[str, Any]]:
        """Return the measures of the removal `judge` and of the methods' scores (M, S), by name."""
        chance = random_scores(self.n_orders, case.count, case.seed)
        whole, deletion, lerf = self._areas(case, judge, torch.cat([chance, scores]))
        luck = RandomBias.of(*(each[: self.n_orders] for each in (whole, deletion, lerf)))
        survived = float(deletion[: self.n_orders].mean())
        found = {RANDOM_ORDERS: dict(zip(OF_REMOVALS, (survived, luck.bias(), luck.noise()), strict=True))}
        values = torch.stack([deletion, lerf, lerf - deletion], 1)[self.n_orders :].tolist()
        for name, row in zip(self.methods, values, strict=True):
            found[name] = dict(zip(OF_METHODS, row, strict=True))
        return found

    def _areas(self, case: Case, judge: str, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the answers to the whole picture and the MoRF and LeRF areas, (M,), for scores (M, S)."""
        unknown = torch.full((len(scores),), torch.nan)
        given = Attribution(scores, case.segments, (case.target,) * len(scores), unknown)
        orders: tuple[Order, Order] = ("deletion", "lerf")
        first, last = (
            flipping_curves(
                case.operator(judge),
                case.x,
                [given],
                order,
                self.steps,
                perturbations_per_eval=case.batch_size,
                output=self.output,
            )[0]
            for order in orders
        )
        return first.values[:, 0], first.area(), last.area()
