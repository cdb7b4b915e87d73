"""`layermask compare IMAGE`: one picture under every removal, and inside the model under four of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options, predict
from layermask.cli.outcome import outcome
from layermask.cli.scene import Ranking, Scene, prepare, rank, write

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from layermask.activations import FeatureMap, Place
    from layermask.draw.compare import Column, Tile

PATCH = 16  # pixels, of what --hide hides
WHOLE = "whole image"
GREY, MASKED, ZERO = "grey fill", "layer masking", "layer masking,\nzero padding"  # rows of the feature maps

Mask = Annotated[
    Path | None,
    typer.Option(help="Picture of two levels: white = visible, black = hidden.", show_default=False),
]
Hide = Annotated[
    float | None,
    typer.Option(
        help=f"Without a mask: the share of the {PATCH}x{PATCH} patches to hide, drawn at random.",
        show_default="0.5",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the patches that --hide draws.")]


@dataclass(frozen=True)
class Hidden:
    """What is hidden: `visible` (1, 1, H, W), by a mask file or by a share of patches drawn with a seed."""

    visible: Tensor
    mask: Path | None
    share: float
    seed: int

    def amount(self) -> float:
        return float(self.visible.float().mean())

    def title(self) -> str:
        how = self.mask.name if self.mask else f"random {PATCH}×{PATCH} patches hidden"
        return f"{how}, {self.amount():.1%} visible"

    def record(self) -> dict[str, Any]:
        from layermask.record import sha256

        if self.mask:
            return {"file": self.mask.name, "sha256": sha256(self.mask), "visible": self.amount()}
        return {"hide": self.share, "seed": self.seed, "patch": PATCH, "visible": self.amount()}


@dataclass(frozen=True)
class Answer:
    """What entered the model, (H, W, 3) uint8, and what the model made of it, all classes."""

    picture: np.ndarray
    ranking: Ranking

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

    scene: Scene
    hidden: Hidden
    answers: dict[str, Answer]
    left_out: dict[str, str]
    inside: Inside | str


def command(
    image: options.Image,
    mask: Mask = None,
    hide: Hide = None,
    seed: Seed = 0,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    out: options.Out = Path(),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Draw a picture under every removal with the model's answer, and feature maps inside the model.

    Writes IMAGE_compare.png and IMAGE_compare.json. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome(quiet):
        from layermask.files import output_folder

        _check(mask, hide)
        folder = output_folder(out)
        scene = prepare(image, model, weights, device)
        hidden = _hidden(scene, mask, 0.5 if hide is None else hide, seed)
        say = options.voice(quiet or json)
        say(f"{scene.title}, {hidden.title()}")
        found = Comparison(scene, hidden, *_answers(scene, hidden.visible), _inside(scene, hidden.visible))
        say(_table(found))
        files = write(folder, f"{image.stem}_compare", _sheet(found), _record(found))
        typer.echo(files.text, nl=False) if json else say(f"wrote {files.picture} and {files.record}")


def _check(mask: Path | None, hide: float | None) -> None:
    from layermask.errors import InputError

    if mask and hide is not None:
        raise InputError(f"--mask {mask} and --hide {hide:g} both say what is hidden: give one of them")
    if hide is not None and not 0 < hide < 1:
        raise InputError(f"--hide {hide:g}: give a share of the patches above 0 and below 1, as 0.5")


def _hidden(scene: Scene, mask: Path | None, share: float, seed: int) -> Hidden:
    visible = predict._visible(scene, mask, False) if mask else _patches(scene, share, seed)
    return Hidden(visible, mask, share, seed)


def _patches(scene: Scene, share: float, seed: int) -> Tensor:
    """Return the (1, 1, H, W) mask of patches drawn at random; at least one is visible and one hidden."""
    import torch

    from layermask.errors import InputError

    patches = _grid(scene)
    count = int(patches.max()) + 1
    if count == 1:
        size = tuple(patches.shape)
        raise InputError(f"the model sees {size} pixels, one patch of {PATCH}x{PATCH}: give a --mask instead")
    hidden = min(max(1, round(share * count)), count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    visible = torch.ones(count, dtype=torch.bool).index_fill(0, order[:hidden], False)
    return visible[patches][None, None].to(scene.x.device)


def _grid(scene: Scene) -> Tensor:
    from layermask.segment import Grid

    return Grid(PATCH)(scene.picture)


def _answers(scene: Scene, visible: Tensor) -> tuple[dict[str, Answer], dict[str, str]]:
    """Return what the model answers under each removal that can serve it, and why the others cannot."""
    from layermask.errors import InputError
    from layermask.removal.table import REMOVALS

    answers, left_out = {WHOLE: _answer(scene, visible, lambda: scene.loaded.model(scene.x))}, {}
    for name in REMOVALS:
        try:
            answers[name] = _answer_under(scene, visible, name)
        except (InputError, NotImplementedError) as error:  # no such package, model or rule
            left_out[name] = _in_a_line(error)
    return answers, left_out


def _answer_under(scene: Scene, visible: Tensor, name: str) -> Answer:
    from layermask.removal.table import removal

    segments = _grid(scene).to(scene.x.device)  # for those removals that paint by segment
    operator = removal(name, scene.loaded.model, scene.loaded.preprocessing, segments)
    return _answer(scene, visible, lambda: operator(scene.x, visible))


def _answer(scene: Scene, visible: Tensor, ask: Callable[[], Any]) -> Answer:
    """Ask, and see what enters the model: what a removal paints, or else a checkerboard for what it hides."""
    import sys

    from torch import Tensor

    from layermask.draw.overlay import hidden_picture

    entered: list[Any] = []
    handle = scene.loaded.model.register_forward_pre_hook(lambda module, args: entered.extend(args[:1]))
    try:
        ranking = rank(ask, count=sys.maxsize)
    finally:
        handle.remove()
    x = entered[-1] if entered else None
    if isinstance(x, Tensor) and x.shape == scene.x.shape:
        return Answer(scene.loaded.preprocessing.picture(x), ranking)
    return Answer(hidden_picture(scene.picture, visible), ranking)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _inside(scene: Scene, visible: Tensor) -> Inside | str:
    """Return the feature maps under the rows of the paper's Figure 2, or why there are none."""
    from layermask.activations import activations, distance, find_places, telling_channel

    model = scene.loaded.model
    try:
        places = find_places(model, scene.x)
    except NotImplementedError as error:
        return f"No feature maps: {_in_a_line(error)}"
    if not places:
        return f"No feature maps: no module of this {type(model).__name__} gives a grid of positions."
    maps = {name: activations(model, ask, places) for name, ask in _rows(scene, visible).items()}
    whole, shown = maps[WHOLE], [each.visible for each in maps[MASKED]]
    off = {
        name: [distance(*three) for three in zip(found, whole, shown, strict=True)]
        for name, found in maps.items()
        if name != WHOLE
    }
    return Inside(places, [telling_channel(each) for each in whole], maps, off)


def _rows(scene: Scene, visible: Tensor) -> dict[str, Callable[[], Any]]:
    from layermask.removal.layers import LayerMasking
    from layermask.removal.table import removal

    model, x = scene.loaded.model, scene.x
    return {
        WHOLE: lambda: model(x),
        GREY: lambda: removal("greyout", model, scene.loaded.preprocessing)(x, visible),
        MASKED: lambda: LayerMasking(model)(x, visible),
        ZERO: lambda: LayerMasking(model, fill="zero")(x, visible),
    }


def _table(found: Comparison) -> str:
    """Return a line per removal: the likeliest class, and how likely that of the whole image is."""
    usual = found.answers[WHOLE].top
    lines = []
    for name, answer in found.answers.items():
        label, other = found.scene.label(answer.top), ""
        if answer.top != usual:
            other = f"  ({found.scene.label(usual)} {100 * answer.probability(usual):.1f} %)"
        lines.append(f"  {name:20s} {100 * answer.ranking[0][1]:5.1f} %  {label}{other}")
    lines += [f"left out: {name}: {why}" for name, why in found.left_out.items()]
    return "\n".join([*lines, found.inside] if isinstance(found.inside, str) else lines)


_TILES = (
    "✓ the class that the model finds most likely in the whole image, ✗ another class; bar: its probability."
)
_MAPS = (
    "Inside the model: the first and last feature map of each resolution, in the channel that varies most "
    "over the whole image; one grey scale per column; checkerboard: hidden. Off by: |map − map of the whole "
    "image| / |map of the whole image|, over all channels and the cells that layer masking shows."
)


def _sheet(found: Comparison) -> bytes:
    from layermask.draw.compare import comparison_sheet
    from layermask.draw.figure import png
    from layermask.draw.overlay import hidden_picture

    scene, inside = found.scene, found.inside
    remains = hidden_picture(scene.picture, found.hidden.visible)
    inputs: dict[str, np.ndarray] = {WHOLE: scene.picture, GREY: remains, MASKED: remains, ZERO: remains}
    if "greyout" in found.answers:
        inputs[GREY] = found.answers["greyout"].picture
    notes = [_TILES, inside if isinstance(inside, str) else _MAPS]
    notes += [f"Left out: {name}: {why}" for name, why in found.left_out.items()]
    columns = [] if isinstance(inside, str) else _columns(inside)
    return png(
        comparison_sheet(f"{scene.title}, {found.hidden.title()}", _tiles(found), inputs, columns, notes)
    )


def _tiles(found: Comparison) -> list[Tile]:
    from layermask.draw.compare import Tile
    from layermask.removal.table import REMOVALS

    usual = found.answers[WHOLE].top
    return [
        Tile(
            name,
            REMOVALS[name].summary if name in REMOVALS else "everything visible",
            answer.picture,
            *found.scene.named(answer.ranking[:1])[0],
            None if answer.top == usual else (found.scene.label(usual), answer.probability(usual)),
        )
        for name, answer in found.answers.items()
    ]


def _columns(inside: Inside) -> list[Column]:
    from layermask.draw.compare import Column

    columns = []
    for index, (place, channel) in enumerate(zip(inside.places, inside.channels, strict=True)):
        heading = place.module, f"{place.size[0]}×{place.size[1]}", f"channel {channel}"
        maps = {name: each[index].channel(channel) for name, each in inside.maps.items()}
        columns.append(Column(heading, maps, {name: off[index] for name, off in inside.off.items()}))
    return columns


def _record(found: Comparison) -> dict[str, Any]:
    scene, usual = found.scene, found.answers[WHOLE].top
    return {
        "command": "compare",
        **scene.record(),
        "mask": found.hidden.record(),
        "answers": {
            name: {
                "same": answer.top == usual,
                "usual": answer.probability(usual),  # of the class likeliest in the whole image
                "predictions": scene.entries(answer.ranking[:5]),
            }
            for name, answer in found.answers.items()
        },
        "left_out": found.left_out,
        "inside": found.inside if isinstance(found.inside, str) else _stages(found.inside),
    }


def _stages(inside: Inside) -> list[dict[str, Any]]:
    return [
        {
            "module": place.module,
            "size": list(place.size),
            "channel": channel,
            "off": {name.replace("\n", " "): off[index] for name, off in inside.off.items()},
        }
        for index, (place, channel) in enumerate(zip(inside.places, inside.channels, strict=True))
    ]
