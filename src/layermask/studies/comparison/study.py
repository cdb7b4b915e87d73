"""One picture under every removal, and inside the model under four of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layermask.studies.hidden import Hidden, patches_of
from layermask.studies.prepared import PreparedImage, TopClasses, rank

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from layermask.explain.feature_maps import FeatureMap, Place
    from layermask.zoo.loaded import Loaded

WHOLE = "whole image"
GREY, MASKED, ZERO = "grey fill", "layer masking", "layer masking,\nzero padding"  # rows of the feature maps


@dataclass(frozen=True)
class Answer:
    """What entered the model, (H, W, 3) uint8, and what the model made of it, all classes."""

    picture: np.ndarray
    ranking: TopClasses
    engine: str | None = None

    @property
    def top(self) -> int:
        return self.ranking[0][0]

    def probability(self, index: int) -> float:
        return dict(self.ranking)[index]


@dataclass(frozen=True)
class Inside:
    """The feature maps of each row at each place, the channel drawn, and how far rows are from the first."""

    places: list[Place]
    channels: list[int]
    maps: dict[str, list[FeatureMap]]
    off: dict[str, list[float | None]]


@dataclass(frozen=True)
class Comparison:
    """All that was found; `left_out` says why of removals, `inside` is why when there are no feature maps."""

    scene: PreparedImage
    hidden: Hidden
    answers: dict[str, Answer]
    left_out: dict[str, str]
    inside: Inside | str


class Operators:
    """The removals of one model, made once for all pictures; `zero`: layer masking without padding."""

    def __init__(self, loaded: Loaded) -> None:
        from layermask.removal.layer_masking import LayerMasking
        from layermask.removal.registry import MadeOnce

        self._loaded, self._made = loaded, MadeOnce()
        self.zero = LayerMasking(loaded.model, fill="zero")

    def __call__(self, name: str, segments: Tensor | None = None) -> Any:
        return self._made(name, self._loaded, segments)


def compare(scene: PreparedImage, hidden: Hidden, operators: Operators) -> Comparison:
    found = _answers(scene, hidden.visible, operators)
    return Comparison(scene, hidden, *found, _inside(scene, hidden.visible, operators))


def _answers(
    scene: PreparedImage, visible: Tensor, operators: Operators
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Return what the model answers under each removal that can serve it, and why the others cannot."""
    from layermask.errors import InputError
    from layermask.removal.query import Unmasked
    from layermask.removal.registry import REMOVALS

    answers, left_out = {WHOLE: _answer(scene, visible, Unmasked(scene.loaded.model), None)}, {}
    for name in REMOVALS:
        try:
            answers[name] = _answer_under(scene, visible, name, operators)
        except (InputError, NotImplementedError) as error:  # no such package, model or rule
            left_out[name] = _in_a_line(error)
    return answers, left_out


def _answer_under(scene: PreparedImage, visible: Tensor, name: str, operators: Operators) -> Answer:
    from layermask.io.record import engine_of

    operator = operators(name, patches_of(scene).to(scene.x.device))  # some paint by segment
    return replace(_answer(scene, visible, operator, scene.valid), engine=engine_of(operator))


def _answer(
    scene: PreparedImage, visible: Tensor, removal: Callable[..., Any], valid: Tensor | None
) -> Answer:
    """Ask, and see what enters the model: what a removal paints, or else a checkerboard for what it hides."""
    import sys

    from layermask.core.masked import is_plain
    from layermask.io.overlay import hidden_picture

    entered: list[Any] = []
    handle = scene.loaded.model.register_forward_pre_hook(lambda module, args: entered.extend(args[:1]))
    try:
        ranking = rank(removal, scene.x, visible, sys.maxsize, valid=valid)
    finally:
        handle.remove()
    x = entered[-1] if entered else None
    if is_plain(x) and x.shape == scene.x.shape:
        return Answer(scene.loaded.preprocessing.picture(x), ranking)
    return Answer(hidden_picture(scene.picture, visible), ranking)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _inside(scene: PreparedImage, visible: Tensor, operators: Operators) -> Inside | str:
    """Return the feature maps under the rows of the paper's Figure 2, or why there are none."""
    from layermask.explain.feature_maps import activations, distance, find_places, most_varying_channel

    model = scene.loaded.model
    try:
        places = find_places(model, scene.x)
    except NotImplementedError as error:
        return f"No feature maps: {_in_a_line(error)}"
    if not places:
        return f"No feature maps: no module of this {type(model).__name__} gives a grid of positions."
    maps = {name: activations(model, ask, places) for name, ask in _rows(scene, visible, operators).items()}
    whole, shown = maps[WHOLE], [each.visible for each in maps[MASKED]]
    off = {
        name: [distance(*three) for three in zip(found, whole, shown, strict=True)]
        for name, found in maps.items()
        if name != WHOLE
    }
    return Inside(places, [most_varying_channel(each) for each in whole], maps, off)


def _rows(scene: PreparedImage, visible: Tensor, operators: Operators) -> dict[str, Callable[[], Any]]:
    x = scene.x
    return {
        WHOLE: lambda: scene.loaded.model(x),
        GREY: lambda: operators("greyout")(x, visible),
        MASKED: lambda: operators("layermask")(x, visible),
        ZERO: lambda: operators.zero(x, visible),
    }
