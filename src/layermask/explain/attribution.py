"""`Attribution`: what an explainer found for one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.kinds import Text
from layermask.errors import InputError
from layermask.io.notebook import card
from layermask.io.pixels import tinted
from layermask.removal.targets import known_target, target_name
from layermask.segment.labels import NOWHERE, spread

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Index = Annotated[int, kinds.index]
Rows = Annotated[Tensor, partial(kinds.values, ndim=2)]
MaybeRows = Annotated[Tensor | None, kinds.optional(partial(kinds.values, ndim=2))]
MaybeValues = Annotated[Tensor | None, kinds.optional(kinds.values)]


@dataclass(frozen=True)
class Attribution(Checked):
    """One score per target class (T) and segment (S): positive supports the class, negative detracts.

    `scores` (T, S) float64, in units of the explained output; `segments` (*S) int64, the segment of each
    pixel, and -1 for those that are never visible; `targets` (T) the classes, or the objects and functions
    that were asked for; `prediction` (T,) the explained output for the whole picture; `n_samples` the number
    of masks.

    Where the method has them: `stderr` (T, S), the standard errors of scores that come from sampling;
    `r2` and `intercept` (T,) of a linear surrogate; `region` (T, S) bool, the smallest visible part found.
    """

    scores: Rows
    segments: Annotated[Tensor, kinds.label_map]
    targets: Annotated[tuple[Any, ...], partial(kinds.several, kind=known_target)]
    prediction: Annotated[Tensor, partial(kinds.values, ndim=1)]
    method: Text = ""
    n_samples: Index = 0
    stderr: MaybeRows = None
    intercept: MaybeValues = None
    r2: MaybeValues = None
    region: MaybeRows = None
    settings: Annotated[Mapping[str, Any], kinds.mapping] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_segments()
        self._check_rows()

    def _repr_html_(self) -> str:
        """What notebooks show: what was asked, and for each target its best segments and its scores."""
        limit = float(self.scores.abs().nan_to_num().max())
        facts = {
            "targets": ", ".join(map(str, self.targets)),
            "segments": self.scores.shape[1],
            "masks asked for": self.n_samples,
            "full tint": f"{limit:.3g}, green supports, red detracts",
        }
        rows = enumerate(self.targets)
        facts |= {f"target {target}": self._summary(row) for row, target in rows}
        return card(self.method or "Attribution", facts, self._pictures(limit))

    def _summary(self, row: int) -> str:
        best = self.scores[row].argsort(descending=True, stable=True)[:3].tolist()
        listed = ", ".join(f"{segment} ({self.scores[row, segment]:+.3g})" for segment in best)
        fit = "" if self.r2 is None else f"; r2 {self.r2[row]:.3g}"
        return f"{self.prediction[row]:.3g} for the whole picture; best segments {listed}{fit}"

    def _pictures(self, limit: float) -> list[tuple[str, Tensor]]:
        if self.segments.ndim != 2:
            return []
        white = torch.full(self.segments.shape, 255.0)
        maps = (
            (target_name(target), self.heatmap(row).nan_to_num()) for row, target in enumerate(self.targets)
        )
        return [(f"target {target}", tinted(white, scores, limit)) for target, scores in maps]

    def record(self) -> dict[str, Any]:
        """Return the numbers as they stand in JSON."""
        found = {name: getattr(self, name) for name in ("stderr", "intercept", "r2", "region")}
        return {
            "scores": self.scores.tolist(),
            "prediction": self.prediction.tolist(),
            "n_samples": self.n_samples,
            **{name: values.tolist() for name, values in found.items() if values is not None},
            **self._certainty(),
        }

    def _certainty(self) -> dict[str, Any]:
        sure = {} if self.stderr is None else {"reliability": self.reliability().tolist()}
        return sure if self.settled is None else {**sure, "settled": self.settled}

    @property
    def settled(self) -> bool | None:
        """Whether all targets reached the `precision` that was set; scores without errors are exact."""
        precision = self.settings.get("precision")
        if precision is None or self.stderr is None:
            return None if precision is None else True
        return bool((self.reliability() >= precision).all())

    def _check_segments(self) -> None:
        low, high, count = int(self.segments.min()), int(self.segments.max()), self.scores.shape[1]
        if low < NOWHERE or high >= count:
            raise InputError(
                f"segments of shape {tuple(self.segments.shape)} go from {low} to {high}, and scores are of "
                f"{count}: number segments from 0 to {count - 1}"
            )

    def _check_rows(self) -> None:
        rows, shape = (len(self.scores),), tuple(self.scores.shape)
        wanted = {"prediction": rows, "intercept": rows, "r2": rows, "stderr": shape, "region": shape}
        found: dict[str, Any] = {name: getattr(self, name) for name in wanted}
        shapes = {name: tuple(x.shape) for name, x in found.items() if x is not None}
        for name, given in ({"targets": (len(self.targets),)} | shapes).items():
            if given != wanted.get(name, rows):
                raise InputError(
                    f"{name} of shape {given} for scores {shape}: give {wanted.get(name, rows)}, as scores "
                    "are (targets, segments)"
                )

    def heatmap(self, row: int = 0) -> Float[Tensor, "*P"]:
        """Return the (*S) scores of the target in `row`, NaN for pixels that are never visible."""
        return spread(self.scores[self._row(row)], self.segments, torch.nan)

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "T S"], Float[Tensor, "T S"]]:
        """Return the (T, S) bounds between which the scores lie with probability `level`, for many samples.

        Raises:
            InputError: the method does not sample, or knows no standard errors.
        """
        if self.stderr is None:
            raise InputError(f"{self.method} has no standard errors: it does not sample")
        level = kinds.number("level", level, above=0, below=1)
        half = NormalDist().inv_cdf((1 + level) / 2) * self.stderr
        return self.scores - half, self.scores + half

    def reliability(self) -> Float[Tensor, " T"]:
        """Return the correlation (T,) to expect between these scores and those that another seed gives.

        That is the share of their variance over the segments which is not sampling error (the reliability
        of classical test theory); its root is the correlation to expect with the scores of unlimited masks.

        Raises:
            InputError: the method does not sample, or knows no standard errors.
        """
        if self.stderr is None:
            raise InputError(f"{self.method} has no standard errors: it does not sample")
        return reliability(self.scores, self.stderr)

    def visible(self, shown: int | Tensor, row: int = 0) -> Bool[Tensor, "1 1 *P"]:
        """Return the (1, 1, *S) mask that shows the `shown` highest segments, or those of a bool (S,)."""
        if not isinstance(shown, Tensor) or shown.ndim == 0:
            shown = self._highest(kinds.count("shown", shown, low=0), self._row(row))
        shown = kinds.mask("shown", shown)
        if tuple(shown.shape) != (count := self.scores.shape[1],):
            raise InputError(f"shown is of shape {tuple(shown.shape)}: give ({count},), one for each segment")
        return spread(shown, self.segments, False)[None, None]

    def _highest(self, number: int, row: int) -> Tensor:
        best = self.scores[row].argsort(descending=True, stable=True)[:number]
        return torch.zeros(self.scores.shape[1], dtype=torch.bool).index_fill(0, best, True)

    def _row(self, row: int) -> int:
        rows = len(self.scores)
        return kinds.count("row", row, low=-rows, high=rows - 1)


def reliability(scores: Float[Tensor, "T S"], stderr: Float[Tensor, "T S"]) -> Float[Tensor, " T"]:
    """Return 1 - mean squared standard error / variance of the scores, from 0 to 1.

    1 where there is no error, 0 where standard errors are unknown or larger than what tells scores apart.
    """
    error, spread = stderr.square().mean(1), scores.var(1)
    share = 1 - error / spread.clamp(min=1e-300)
    return torch.where(error == 0, 1.0, share.nan_to_num(0).clamp(0, 1))
