"""What was found of removal operators: how reliable each is, how it ranks methods, and who agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from layermask.metrics.bootstrap import Estimate, means, roots
from layermask.metrics.operators import kendall, rank_stability
from layermask.metrics.registry import METRICS
from layermask.render.table import Cell, Table
from layermask.studies.operators.study import OF_METHODS, OF_REMOVALS, RANDOM_ORDERS
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the measures of the removals, the rankings of the methods, and the removals' agreement."""
    each = found(columns, content)
    return [_trust(each), _rankings(each), _agreement(each)]


def _trust(each: list[Found]) -> Table:
    rows = [
        (one.segmentation, removal, one.images, *measured)
        for one in each
        for removal, *measured in zip(
            one.removals, *map(one.of_removals, OF_REMOVALS), one.stability(), strict=True
        )
    ]
    header = ("segmentation", "removal", "images", *BETTER)
    return Table("trust", "Removal operators, and 95 % intervals over images", header, rows, BETTER)


def _rankings(each: list[Found]) -> Table:
    rows: list[Sequence[Cell]] = []
    for one in each:
        measures = {
            (method, measure): means(one.values(method, measure))
            for method in one.methods
            for measure in OF_METHODS
        }
        for number, removal in enumerate(one.removals):
            for place, method in enumerate(one.methods):
                rank = int(one.ranks[place, number]) if one.images else "-"
                values = [measures[method, measure][number] for measure in OF_METHODS]
                rows.append((one.segmentation, removal, method, rank, *values))
    header = ("segmentation", "removal", "method", "rank", *OF_METHODS)
    better = {name: METRICS[name].higher_is_better for name in OF_METHODS}
    return Table("methods", "Methods, ranked by their mean SRG under each removal", header, rows, better)


def _agreement(each: list[Found]) -> Table:
    rows = [
        (one.segmentation, removal, *map(float, taus))
        for one in each
        for removal, taus in zip(one.removals, one.agreement(), strict=True)
    ]
    header = ("segmentation", "removal", *each[0].removals)
    return Table("agreement", "Kendall's tau of the rankings by two removals", header, rows)


BETTER = {name: METRICS[name].higher_is_better for name in (*OF_REMOVALS, "rank-stability")}


@dataclass(frozen=True)
class Found:
    """The rows of one segmentation. `images`: how many have values; the rest has one segment."""

    segmentation: str
    removals: Sequence[str]
    methods: Sequence[str]
    columns: Columns

    def values(self, method: str, measure: str) -> Tensor:
        """Return the values (N, R) of the images that have some."""
        columns = self.columns
        rows = (
            (columns["segmentation"] == self.segmentation)
            & (columns["method"] == method)
            & (columns["measure"] == measure)
        )
        values = torch.from_numpy(columns["value"][rows].astype(float)).view(-1, len(self.removals))
        return values[~values.isnan().any(1)]

    @property
    def images(self) -> int:
        return len(self.values(RANDOM_ORDERS, OF_REMOVALS[0]))

    def of_removals(self, measure: str) -> list[Estimate]:
        """Return the measure of each removal; noise is a root mean square over images, too."""
        values = self.values(RANDOM_ORDERS, measure)
        return roots(values.square()) if measure == "random-noise" else means(values)

    @cached_property
    def gains(self) -> Tensor:
        """The SRG (M, N, R) of the methods."""
        return torch.stack([self.values(method, "srg") for method in self.methods])

    @cached_property
    def ranks(self) -> Tensor:
        """The places (M, R) of the methods by their mean SRG, from 1, under each removal."""
        return 1 + (-self.gains.mean(1)).argsort(dim=0, stable=True).argsort(dim=0)

    @property
    def can_rank(self) -> bool:
        return len(self.methods) > 1 and self.images > 1

    def stability(self) -> list[float]:
        """Return each removal's rank stability; unknown of one method, or of one image."""
        if not self.can_rank:
            return [torch.nan] * len(self.removals)
        return [rank_stability(self.gains[..., number]) for number in range(len(self.removals))]

    def agreement(self) -> Tensor:
        """Return Kendall's tau (R, R) of the methods' mean SRG by each two removals, where there are some."""
        if len(self.methods) < 2 or not self.images:
            return torch.full((len(self.removals),) * 2, torch.nan, dtype=torch.float64)
        by_removal = self.gains.mean(1).T
        return kendall(by_removal[:, None], by_removal[None])


def found(columns: Columns, content: Content) -> list[Found]:
    """Return what was found for each segmentation."""
    settings = content["settings"]
    return [
        Found(segmentation, settings["removals"], settings["methods"], columns)
        for segmentation in settings["segmentations"]
    ]


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    settings = content["settings"]
    lines = common_words(content)
    lines.append(
        f"The methods explain the plain model's prediction. Each image has {settings['n_orders']} random "
        f"orders of {settings['steps']} steps."
    )
    for one in found(columns, content):
        if one.images < content["images"]:
            left = content["images"] - one.images
            lines.append(f"{left} images are left out: {one.segmentation} finds only one segment in them.")
    return lines
