"""Targets: what of a model's answer is explained. The one table, for Python, the command line and adapters.

A target is a class, by number or name, one of the objects below, or any function `answer -> (N,)` of the
model's answer to N masked pictures. Coordinates are in pixels of the images that the model is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.kinds import Text
from layermask.arguments.refusal import refused, shown, wrong_type
from layermask.arguments.tensors import has_items
from layermask.errors import InputError, ModelError
from layermask.removal.reading import Reading
from layermask.zoo.labels import find_class

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Shaped

Read = Callable[[Any, int, Reading], Tensor]  # the answer, the number of pictures in it -> (N,)
_size = partial(kinds.pair, of="(height, width)")
Size = Annotated[tuple[int, int] | None, kinds.optional(_size)]


def class_kind(name: str, value: Any) -> int | str:
    """Return a class, by its number from 0 or by its name."""
    return value if isinstance(value, str) and value else kinds.index(name, value)


Class = Annotated[int | str, class_kind]


class AnswerTarget(Checked, ABC):
    """A target that reads the answer as the explainer's `output` has it."""

    @abstractmethod
    def read(self, answer: Any, count: int, reading: Reading) -> Float[Tensor, " {count}"]:
        """Return one number for each of the pictures, `count` of them, of the answer to them."""


Target = int | str | AnswerTarget | Callable[[Any], Tensor]
Targets = Target | Sequence[Target] | None


@dataclass(frozen=True)
class ClassScore(AnswerTarget):
    """A class of a model that answers scores (N, classes); a plain number or name means the same."""

    target: Class

    def read(self, answer: Any, count: int, reading: Reading) -> Float[Tensor, " {count}"]:
        table = reading.table(answer, count)
        return table[:, class_index(self.target, reading, table.shape[1])]

    def __str__(self) -> str:
        return str(self.target)


@dataclass(frozen=True, eq=False)
class Region(AnswerTarget):
    """A class of a dense map (N, classes, *S), its mean over a region.

    `region` (*S) bool, of the image or of the map: it is resized to the map, where cells count by the part of
    them that lies within. Cells of the answer that masking hides count with a score of 0.
    """

    target: Class
    region: Annotated[Tensor, kinds.mask]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not bool(self.region.any()):
            raise refused("region", self.region, "it has no pixel, give one that has some")

    @classmethod
    def pixel(cls, target: int | str, x: int, y: int, size: tuple[int, int]) -> Region:
        """Return a class at the pixel in column `x` and row `y` of images of `size` (height, width)."""
        height, width = _size("size", size)
        region = torch.zeros(height, width, dtype=torch.bool)
        region[kinds.count("y", y, low=0, high=height - 1), kinds.count("x", x, low=0, high=width - 1)] = True
        return cls(target, region)

    @classmethod
    def polygon(cls, target: int | str, points: Sequence[Any], size: tuple[int, int]) -> Region:
        """Return a class within a polygon in images of `size` (height, width).

        `points`: corners (x, y), or all their numbers in one list, x before y, as COCO has them. A pixel
        belongs to it if its centre does, by the even-odd rule.
        """
        flat = [each for item in kinds.sequence("points", points) for each in _pair("points", item)]
        corners = kinds.numbers("points", flat)
        if len(corners) < 6 or len(corners) % 2:
            raise refused("points", points, "a polygon has three corners (x, y) or more")
        return cls(target, _within(torch.tensor(corners).view(-1, 2), *_size("size", size)))

    def read(self, answer: Any, count: int, reading: Reading) -> Float[Tensor, " {count}"]:
        maps = reading.dense(answer, count)
        weights = _resized(self.region.to(maps.device), maps)
        one = maps[:, class_index(self.target, reading, maps.shape[1])]
        return (one * weights).flatten(1).sum(1) / weights.sum()

    def __str__(self) -> str:
        return f"{self.target} over {int(self.region.sum())} pixels"


@dataclass(frozen=True)
class Box(AnswerTarget):
    """A box of a detector: the best product of class score and overlap among all boxes it finds.

    D-RISE, Petsiuk et al. 2021 (arXiv 2006.03204), Equation 3 for a class: the overlap is intersection over
    union, and 0 stands for no box found. `box` (x1, y1, x2, y2); `target` the detector's number or name of
    the class. Answers may be torchvision's (a dict of boxes, labels and scores for each picture) or those of
    DETR and its kind in transformers (logits, pred_boxes), which need `size` (height, width) of the images.
    """

    box: Annotated[Sequence[float], kinds.numbers]
    target: Class
    size: Size = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.box) != 4 or self.box[0] >= self.box[2] or self.box[1] >= self.box[3]:
            raise refused("box", self.box, "give its corners (x1, y1, x2, y2), x1 < x2 and y1 < y2")

    def read(self, answer: Any, count: int, reading: Reading) -> Float[Tensor, " {count}"]:
        found = self._detections(answer, reading)
        if len(found) != count:
            raise ModelError(f"the detector answers for {len(found)} pictures, and {count} were given")
        return torch.stack([self._best(boxes.float(), scores.float()) for boxes, scores in found])

    def _best(self, boxes: Float[Tensor, "Q 4"], scores: Float[Tensor, " Q"]) -> Float[Tensor, ""]:
        """Return the best score × overlap of boxes with scores of the class."""
        products = scores * _overlap(boxes, boxes.new_tensor(self.box))
        return products.amax() if len(products) else scores.new_zeros(())

    def _detections(self, answer: Any, reading: Reading) -> list[tuple[Tensor, Tensor]]:
        if isinstance(answer, (list, tuple)) and all(isinstance(each, Mapping) for each in answer):
            wanted = class_index(self.target, reading)
            return [(one["boxes"], one["scores"] * (one["labels"] == wanted)) for one in answer]
        logits, boxes = (getattr(answer, name, None) for name in ("logits", "pred_boxes"))
        if logits is None or boxes is None:
            raise ModelError(
                f"target {self}: the model answers with a {type(answer).__name__}, and boxes are read from a "
                "list of dicts of boxes, labels and scores, or from logits and pred_boxes: give a function "
                "of the answer as target"
            )
        return list(zip(self._in_pixels(boxes), self._scores(logits, reading), strict=True))

    def _in_pixels(self, boxes: Float[Tensor, "N Q 4"]) -> Float[Tensor, "N Q 4"]:
        """Return the corners of boxes: centre, width and height as shares of the image."""
        if self.size is None:
            raise InputError(
                "size: this model's boxes are shares of the image, give Box(..., size=(height, width))"
            )
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        height, width = self.size
        return torch.cat([centre - half, centre + half], -1) * boxes.new_tensor([width, height] * 2)

    def _scores(self, logits: Float[Tensor, "N Q K"], reading: Reading) -> Float[Tensor, "N Q"]:
        """Return the scores of the class: by softmax where the last class means no object."""
        classes = len(reading.names())
        chances = logits.float().softmax(-1)[..., :-1] if logits.shape[-1] == classes + 1 else None
        if chances is None and (reading.output == "sigmoid" or logits.shape[-1] == classes):
            chances = logits.float().sigmoid()
        if chances is None:
            raise ModelError(
                f"the detector's logits are {tuple(logits.shape)} and it names {classes} classes: give "
                'output="sigmoid" if they are independent, or a function of the answer as target'
            )
        return chances[..., class_index(self.target, reading, chances.shape[-1])]

    def __str__(self) -> str:
        return f"{self.target} in box {', '.join(f'{each:g}' for each in self.box)}"


@dataclass(frozen=True, eq=False)
class Similarity(AnswerTarget):
    """The cosine of the answer and an embedding (D,), of another image or of a text (CLIP, SigLIP, DINO).

    The model answers features (N, D), or an object with `image_embeds` or `pooler_output`.
    """

    embedding: Annotated[Tensor, partial(kinds.values, finite=True)]
    name: Text = "an embedding"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "embedding", self.embedding.detach().flatten().float())
        if not bool(self.embedding.any()):
            raise refused("embedding", self.embedding, "all of it is 0, give one that has a direction")

    def read(self, answer: Any, count: int, reading: Reading) -> Float[Tensor, " {count}"]:
        found = next((x for name in _FEATURES if (x := getattr(answer, name, None)) is not None), answer)
        if not isinstance(found, Tensor) or tuple(found.shape) != (count, len(self.embedding)):
            kind = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ModelError(
                f"target {self}: the model answers {kind}, expected features ({count}, "
                f"{len(self.embedding)}) as the embedding has them: let it return those"
            )
        return F.cosine_similarity(found.float(), self.embedding.to(found.device)[None], dim=1)

    def __str__(self) -> str:
        return f"similarity to {self.name}"


_FEATURES = ("image_embeds", "pooler_output")

TARGETS: dict[str, type[AnswerTarget]] = {
    "class": ClassScore,
    "region": Region,
    "box": Box,
    "similarity": Similarity,
}


def target_kind(name: str, value: Any) -> list[Any] | None:
    """Return the targets of one picture, one or several in a list, tuple or array; None stays."""
    if value is None:
        return None
    given = kinds.sequence(name, value) if has_items(value) else [value]
    if not given:
        raise refused(name, value, "give a class or more")
    return [each if isinstance(each, str) or is_target(each) else _number(name, each) for each in given]


def _number(name: str, value: Any) -> int:
    found = kinds.target(name, None if has_items(value) else value)
    if found is None:
        others = ", ".join(each.__name__ for each in TARGETS.values())
        raise wrong_type(
            name, value, f"a target is one class, {others} or function, give several in one list"
        )
    return found[0]


def known_target(name: str, value: Any) -> Any:
    """Return a target that results are for: the number of a class, or what reads answers."""
    return value if is_target(value) else kinds.index(name, value)


def target_name(target: Any, labels: Sequence[str] = ()) -> str:
    """Return what a target is called on a page; `labels` are the names of the classes."""
    if isinstance(target, int):
        return labels[target] if target < len(labels) else f"class {target}"
    return getattr(target, "__name__", None) or str(target)


def from_text(text: str, size: tuple[int, int]) -> Target:
    """Return the target that a text names, in images of `size` (height, width); see `FORMS`.

    Raises:
        InputError: its numbers are none, or not as many as the form has.
    """
    kind, _, rest = text.partition(":")
    if not is_form(text):
        return text
    name, _, listed = rest.rpartition("@")
    try:
        numbers = [float(each) for each in listed.split(",")]
        class_ = int(name) if name.isdecimal() else name
        if kind == "pixel":
            x, y = map(int, numbers)
            return Region.pixel(class_, x, y, size)
        return Region.polygon(class_, numbers, size) if kind == "polygon" else Box(numbers, class_, size)
    except ValueError as error:
        raise InputError(f"target {text!r} ({error}): give {FORMS[kind]}") from error


FORMS = {
    "pixel": "pixel:CLASS@X,Y",
    "polygon": "polygon:CLASS@X,Y,X,Y,X,Y,...",
    "box": "box:CLASS@LEFT,TOP,RIGHT,BOTTOM",
}
"""How targets other than classes are written on the command line."""


def is_form(text: str) -> bool:
    """Whether a text names a target other than a class."""
    return text.partition(":")[0] in FORMS and "@" in text


def is_target(value: Any) -> bool:
    """Whether a value is a target other than a class: it reads the model's answer."""
    return isinstance(value, AnswerTarget) or (callable(value) and not isinstance(value, type))


def class_index(target: Any, reading: Reading, count: int | None = None) -> int:
    """Return the number of a class, of `count` that there are, by its number or name.

    Raises:
        InputError: the model has no such class, or no names.
    """
    if not isinstance(target, str):
        return (kinds.target("target", target, count) or [0])[0]
    names = reading.names()
    if not names or (target.strip("- ").isdecimal() and target not in names):
        raise refused("target", target, "the model has no such name of a class, give the number of one")
    try:
        return find_class(target, names)
    except InputError as error:
        raise refused("target", target, str(error)) from error


def items(name: str, value: Any, removal: Callable[..., Any]) -> list[Any] | None:
    """Return the targets of one picture as a list: numbers of classes, objects and functions. None stays."""
    found, reading = target_kind(name, value), Reading(removal)
    if found is None:
        return None
    return [class_index(each, reading) if isinstance(each, str) else each for each in found]


class Columns:
    """The targets of several pictures as columns of one table of numbers.

    If all are classes, the columns are the model's classes, and `read` is empty. Otherwise there is a column
    for each target that anyone has, and `read` makes them.
    """

    def __init__(self, wanted: Sequence[list[Any] | None]) -> None:
        self.wanted = wanted
        self.read: list[Read] = []
        if any(is_target(each) for one in wanted for each in one or ()):
            if None in wanted:
                raise InputError("targets: some are objects or functions, and some None: give each image one")
            self._places = [[self._place(each) for each in one or ()] for one in wanted]

    @staticmethod
    def of_all(targets: Sequence[Any]) -> list[Read]:
        """Return what reads each of the targets, classes too, in their order."""
        return [_Column(each) for each in targets]

    def picked(self, image: int, numbers: int | None = None) -> list[int]:
        """Return the columns, of so many, of the targets of an image; none where it asks for none."""
        if self.read:
            return self._places[image]
        return kinds.target("target", self.wanted[image], numbers) or []

    def _place(self, target: Any) -> int:
        made = _Column(target)
        if made not in self.read:
            self.read.append(made)
        return self.read.index(made)


@dataclass(frozen=True)
class _Column:
    """Reads one target, an object, a function or the number of a class."""

    target: Any

    def __call__(self, answer: Any, count: int, reading: Reading) -> Float32[Tensor, " {count}"]:
        target = self.target if callable(self.target) else self._object()
        found = target.read(answer, count, reading) if isinstance(target, AnswerTarget) else target(answer)
        if not isinstance(found, Tensor) or tuple(found.shape) not in {(count,), (count, 1)}:
            kind = tuple(found.shape) if isinstance(found, Tensor) else shown(found)
            raise ModelError(
                f"target {target} returned {kind} for {count} masked pictures: return one number each, "
                f"({count},)"
            )
        return found.detach().float().flatten()

    def _object(self) -> AnswerTarget:
        return self.target if isinstance(self.target, AnswerTarget) else ClassScore(self.target)


def values(
    targets: Sequence[Read], answer: Any, count: int, reading: Reading
) -> Float32[Tensor, "{count} {len(targets)}"]:
    """Return the numbers of targets for an answer to so many pictures."""
    columns = [read(answer, count, reading) for read in targets]
    return torch.stack([each.to(columns[0].device) for each in columns], 1)


def _resized(region: Bool[Tensor, "*S"], maps: Float[Tensor, "N K *M"]) -> Float[Tensor, "*M"]:
    """Return the weights of the cells of maps: the part of each that a region covers."""
    if region.ndim != maps.ndim - 2:
        raise InputError(
            f"region is of shape {tuple(region.shape)} and the model's map {tuple(maps.shape)}: give one of "
            f"{maps.ndim - 2} dims"
        )
    one, size = region[None, None].float(), tuple(maps.shape[2:])
    if all(ours <= theirs for ours, theirs in zip(size, region.shape, strict=True)):
        pools = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
        return pools[len(size)](one, size)[0, 0]  # type: ignore[operator]
    return F.interpolate(one, size=size, mode="nearest")[0, 0]


def _pair(name: str, item: Any) -> list[Any]:
    return kinds.sequence(name, item) if has_items(item) else [item]


def _within(corners: Shaped[Tensor, "P 2"], height: int, width: int) -> Bool[Tensor, "{height} {width}"]:
    """Return the pixels whose centres lie within a polygon, by the even-odd rule."""
    x, y = (torch.arange(length) + 0.5 for length in (width, height))
    inside = torch.zeros(height, width, dtype=torch.bool)
    for (x1, y1), (x2, y2) in zip(corners.tolist(), corners.roll(-1, 0).tolist(), strict=True):
        if y1 != y2:
            crosses = (y >= min(y1, y2)) & (y < max(y1, y2))
            inside ^= crosses[:, None] & (x[None] < (x1 + (y - y1) * (x2 - x1) / (y2 - y1))[:, None])
    return inside


def _overlap(boxes: Float[Tensor, "Q 4"], box: Float[Tensor, " 4"]) -> Float[Tensor, " Q"]:
    """Return the intersection over union of each of the boxes and a box."""
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, box)]
    return common / (areas[0] + areas[1] - common).clamp_min(1e-12)
