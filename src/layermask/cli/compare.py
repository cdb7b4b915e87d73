"""`layermask compare IMAGE...`: one picture under every removal, and inside the model under four of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.jobs import Advance, Found, Job, Session, find_jobs, mask_of
from layermask.cli.outcome import outcome
from layermask.errors import InputError
from layermask.io.record import sha256
from layermask.studies.comparison.study import (
    GREY,
    MASKED,
    WHOLE,
    ZERO,
    Comparison,
    Inside,
    Operators,
    compare,
)
from layermask.studies.hidden import PATCH, hide_part
from layermask.studies.prepared import PreparedImage

if TYPE_CHECKING:
    import numpy as np

    from layermask.studies.comparison.figure import Column, Tile

Mask = Annotated[Path | None, options.MASK]
Hide = Annotated[
    float | None,
    typer.Option(
        help=f"Without a mask: the share of the {PATCH}x{PATCH} patches to hide at random.",
        show_default="0.5",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed for the patches that --hide selects.", **options.SEED)]


def command(
    images: options.Images,
    mask: Mask = None,
    hide: Hide = None,
    seed: Seed = 0,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    fitted: options.Fitted = None,
    nodata: options.Nodata = None,
    out: options.Out = Path(),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Show a picture under every removal with the model's prediction, and feature maps inside the model.

    Writes IMAGE_compare.png and IMAGE_compare.json for each picture. Pictures that an earlier run with the
    same options has finished are skipped. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome(quiet, "--model, or --device cpu"):
        from layermask.removal.registry import REMOVALS

        _check(mask, hide)
        share = 0.5 if hide is None else hide
        place = (out, model, weights, device, quiet, json)
        session = Session.open("compare", find_jobs(images), *place, nodata=nodata, fitted=fitted)
        operators = Operators(session.loaded)

        def request(job: Job) -> dict[str, Any]:
            hidden = {"mask": sha256(mask_of(mask, job))} if mask else {"hide": share, "seed": seed}
            return {**hidden, "removals": list(REMOVALS)}

        def work(image: PreparedImage, job: Job, advance: Advance) -> Found:
            hidden = hide_part(image, mask_of(mask, job) if mask else None, share, seed)
            session.print_line(f"{image.title}, {hidden.title()}")
            found = compare(image, hidden, operators)
            session.print_line(_table(found))
            advance(1)
            return Found(_sheet(found), _record(found))

        session.run(work, request, "comparing")


def _check(mask: Path | None, hide: float | None) -> None:
    if mask and hide is not None:
        raise InputError(f"--mask {mask} and --hide {hide:g} both say what is hidden: give one of them")
    if hide is not None and not 0 < hide < 1:
        raise InputError(f"--hide {hide:g}: give a share of the patches above 0 and below 1, as 0.5")


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
    from layermask.io.figure import png
    from layermask.io.overlay import hidden_picture
    from layermask.studies.comparison.figure import comparison_sheet

    image, inside = found.scene, found.inside
    remains = hidden_picture(image.picture, found.hidden.visible)
    inputs: dict[str, np.ndarray] = {WHOLE: image.picture, GREY: remains, MASKED: remains, ZERO: remains}
    if "greyout" in found.answers:
        inputs[GREY] = found.answers["greyout"].picture
    notes = [_TILES, inside if isinstance(inside, str) else _MAPS]
    notes += [f"Left out: {name}: {why}" for name, why in found.left_out.items()]
    columns = [] if isinstance(inside, str) else _columns(inside)
    return png(
        comparison_sheet(f"{image.title}, {found.hidden.title()}", _tiles(found), inputs, columns, notes)
    )


def _tiles(found: Comparison) -> list[Tile]:
    from layermask.removal.registry import REMOVALS
    from layermask.studies.comparison.figure import Tile

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
    from layermask.studies.comparison.figure import Column

    columns = []
    for index, (place, channel) in enumerate(zip(inside.places, inside.channels, strict=True)):
        heading = place.module, f"{place.size[0]}×{place.size[1]}", f"channel {channel}"
        maps = {name: each[index].channel(channel) for name, each in inside.maps.items()}
        columns.append(Column(heading, maps, {name: off[index] for name, off in inside.off.items()}))
    return columns


def _record(found: Comparison) -> dict[str, Any]:
    image, usual = found.scene, found.answers[WHOLE].top
    return {
        **image.record(),
        "mask": found.hidden.record(),
        "answers": {
            name: {
                "same": answer.top == usual,
                "usual": answer.probability(usual),  # of the class likeliest in the whole image
                "predictions": image.entries(answer.ranking[:5]),
            }
            for name, answer in found.answers.items()
        },
        "left_out": found.left_out,
        "inside": found.inside if isinstance(found.inside, str) else _stages(found.inside),
        "engine_used": next((each.engine for each in found.answers.values() if each.engine), None),
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
