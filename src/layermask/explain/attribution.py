"""`Attribution`: what an explainer found for one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.kinds import Text
from layermask.data.images import pixels_of
from layermask.errors import InputError, WrongType, import_optional
from layermask.explain.saved import restored, saved
from layermask.explain.sheet import explanation_sheet
from layermask.io.atomic import read_json, reason, write_all
from layermask.io.notebook import card
from layermask.io.pixels import PALE, tinted
from layermask.io.record import to_json
from layermask.removal.targets import known_target, target_name
from layermask.segment.labels import NOWHERE, sizes_of, spread

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.figure import Figure

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

    def __repr__(self) -> str:
        """One line, whatever the number of segments."""
        rows, count = self.scores.shape
        fit = "" if self.r2 is None else ", R² " + " ".join(f"{x:.2f}" for x in self.r2.flatten().tolist())
        names = ", ".join(map(target_name, self.targets))
        return f"Attribution({self.method or 'no method'}, {rows} targets: {names}, {count} segments{fit})"

    def _repr_html_(self) -> str:
        """What notebooks show: what was asked, and for each target its best segments and its scores."""
        limit = float(self.scores.abs().nan_to_num().max())
        facts = {
            "targets": ", ".join(map(str, self.targets)),
            "segments": self.scores.shape[1],
            "masks asked for": self.n_samples,
            "full tint": f"{limit:.3g}, blue supports, orange detracts, pale: 0 is in the 95 % interval",
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
            (target_name(target), spread(self.shades()[row], self.segments, 0.0).nan_to_num())
            for row, target in enumerate(self.targets)
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

    def noise(self, level: float = 0.95) -> Bool[Tensor, "T S"]:
        """Return which (T, S) scores may be noise: 0 lies in their interval. None if there are no errors."""
        if self.stderr is None:
            return torch.zeros_like(self.scores, dtype=torch.bool)
        low, high = self.interval(level)
        return (low <= 0) & (high >= 0)

    def shades(self) -> Float[Tensor, "T S"]:
        """Return the scores as pictures tint them: those that may be noise a quarter as strong."""
        return torch.where(self.noise(), PALE * self.scores, self.scores)

    def plot(self, image: Any, labels: Sequence[str] = ()) -> Figure:
        """Return a figure of matplotlib: the picture, and beside it the scores of each target over it.

        `image`: as the model sees it: the tensor (1, C, H, W) that was explained, or a file, Pillow image or
        array (H, W, 3) uint8 of the segments' size. `labels`: names of the classes, as `loaded.labels`.

        Raises:
            InputError: the segments are of no picture, or of another size.
        """
        picture = pixels_of(image)
        if picture.shape[:2] != tuple(self.segments.shape):
            raise InputError(
                f"image is {picture.shape[:2]} and the segments {tuple(self.segments.shape)}: give the "
                "picture as the model sees it: the tensor explained, or loaded.preprocessing.picture(x)"
            )
        named = [
            (target_name(each, labels), float(p))
            for each, p in zip(self.targets, self.prediction, strict=True)
        ]
        return explanation_sheet(self.method, picture, named, {self.method or "scores": self}, labels)

    def to(self, device: str | torch.device) -> Attribution:
        """Return the same with its tensors on a device."""
        held = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **held)

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row for each target and segment, and a column for what is known of it."""
        rows, count = self.scores.shape
        sizes = sizes_of(self.segments, count)
        names = [each if isinstance(each, int) else target_name(each) for each in self.targets]
        columns = {
            "target": [name for name in names for _ in range(count)],
            "segment": list(range(count)) * rows,
            "pixels": sizes.tolist() * rows,
            "score": self.scores.flatten().tolist(),
        }
        if self.stderr is not None:
            columns |= {"stderr": self.stderr.flatten().tolist(), "noise": self.noise().flatten().tolist()}
        if self.region is not None:
            columns["region"] = self.region.flatten().tolist()
        return import_optional("pandas", "").DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, every number in full. Targets that are no classes, and functions, by their names.

        Raises:
            InputError: the file cannot be written.
        """
        write_all({kinds.path("path", path): to_json(saved(self)).encode()})

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Return what `save` wrote. Targets that are no classes can be read, and not be explained again.

        Raises:
            InputError: the file cannot be read, or holds no attribution.
        """
        path = kinds.path("path", path)
        try:
            return cls(**restored(read_json(path, "attribution")))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError) and not isinstance(error, WrongType):
                raise
            raise InputError(f"{path} holds no attribution: {reason(error)}") from error

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
