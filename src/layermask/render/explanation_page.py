"""One HTML page for one explained picture: nothing is loaded from elsewhere, and everything is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.sheet import explained_unit, notes_on, predicted, scale_end, spread_of
from layermask.io.pixels import DETRACTS, SUPPORTS, TINT
from layermask.removal.targets import target_name
from layermask.render.html import bars, data_uri, filled, page, section, settings_table, template
from layermask.segment.labels import of_segments

if TYPE_CHECKING:
    import numpy as np


def report_page(
    title: str,
    picture: np.ndarray,
    predictions: Sequence[tuple[str, float]],
    found: Mapping[str, Attribution],
    labels: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """Return a page of HTML that shows, by class and removal, how much each segment matters.

    Args:
        picture: (H, W, 3) uint8, as the model sees it.
        predictions: class names and probabilities, the most likely first.
        found: one attribution per removal, of the same classes and the same segments (H, W).
        labels: the name of each class.
        settings: what to list at the end; values that are mappings become rows of their own.

    Raises:
        InputError: the attributions do not go together, or not with the picture.
    """
    first = _checked(picture, found)
    height, width = picture.shape[:2]
    count = first.scores.shape[1]
    shown = max(1, round(count / 5))
    sections = [_target(found, row, target_name(target, labels)) for row, target in enumerate(first.targets)]
    content = filled(
        "explanation.html",
        picture=data_uri(picture),
        width=width,
        height=height,
        count=count,
        room=2 * len(str(count)) + 4,  # of "3 of 196" with the most digits, so that nothing moves
        shown=shown,
        notes=escape(" ".join(notes_on(found)[1:])),
        predictions=bars("<h2>Predictions</h2>", predictions, explained_unit(first)),
        targets="\n".join(sections),
        settings=section("settings", "Settings", settings_table(settings)),
    )
    data = embedded(_data(first.segments, found))
    script = f'<script type="application/json" id="data">{data}</script>\n'
    return page(title, content, script=f"{script}<script>\n{template('page.js')}</script>")


def embedded(data: Any) -> str:
    """Return JSON that can stand in an HTML script element whatever its strings hold, `</script>` too."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for odd in "<>&\u2028\u2029":
        text = text.replace(odd, f"\\u{ord(odd):04x}")
    return text


def _checked(picture: np.ndarray, found: Mapping[str, Attribution]) -> Attribution:
    """Return the first attribution, once it is known that all go together."""
    if not found:
        raise InputError("there are no attributions to report: give one per removal")
    name, first = next(iter(found.items()))
    for other, each in found.items():
        if each.targets != first.targets:
            raise InputError(f"{other} explains the classes {each.targets} and {name} {first.targets}")
        if not torch.equal(each.segments, first.segments):
            raise InputError(f"{other} and {name} have different segments: explain over the same ones")
    if picture.dtype != "uint8" or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"the picture is {picture.dtype} {picture.shape}: expected (H, W, 3) uint8")
    if picture.shape[:2] != tuple(first.segments.shape):
        raise InputError(
            f"the picture is {picture.shape[:2]} and the segments {tuple(first.segments.shape)}: give the "
            "picture as the model sees it"
        )
    return first


def _data(segments: Tensor, found: Mapping[str, Attribution]) -> dict[str, Any]:
    """Return what the script paints from."""
    return {
        "height": segments.shape[0],
        "width": segments.shape[1],
        "runs": [number for run in of_segments(segments)["runs"] for number in run],
        "supports": [255 * part for part in SUPPORTS],
        "detracts": [255 * part for part in DETRACTS],
        "limits": [scale_end(found.values(), row) for row in range(len(next(iter(found.values())).targets))],
        "removals": [
            {
                "scores": _numbers(each.scores),
                "order": each.scores.argsort(dim=1, descending=True, stable=True).tolist(),
                **({} if each.stderr is None else _unsure(each.stderr, each.shades())),
            }
            for each in found.values()
        ],
    }


def _unsure(stderr: Tensor, shades: Tensor) -> dict[str, Any]:
    return {"stderr": _numbers(stderr), "shades": _numbers(shades)}


def _numbers(rows: Tensor) -> list[list[float | None]]:
    """Return rows to 5 digits, and None for what is not finite, of which JSON knows nothing."""
    return [[float(f"{x:.5g}") if math.isfinite(x) else None for x in row] for row in rows.tolist()]


def _target(found: Mapping[str, Attribution], row: int, name: str) -> str:
    limit, first = scale_end(found.values(), row), next(iter(found.values()))
    told = f"{predicted(first, row)}; scale: change of {explained_unit(first)}"
    removals = (_removal(*each, row, column, name) for column, each in enumerate(found.items()))
    return (
        f'<section class="target">\n<h2>{escape(name)} <small>{escape(told)}</small></h2>\n'
        f'<div class="scale" style="--detracts: {_end(DETRACTS)}; --supports: {_end(SUPPORTS)}">'
        '<div role="img" aria-label="scale: orange detracts, blue supports"></div>'
        f"<p><span>−{limit:.2g}</span><span>0</span><span>+{limit:.2g}</span></p></div>\n"
        f'<div class="removals">\n{"".join(removals)}</div>\n</section>'
    )


def _removal(removal: str, each: Attribution, row: int, column: int, name: str) -> str:
    """Return the place of one overlay and of the picture's best segments: the sizes are known at once."""
    tall, wide = each.segments.shape
    size = f'width="{2 * wide}" height="{2 * tall}"'
    which = f"{escape(name)} under {escape(removal)}"
    return (
        f'<figure class="removal" data-view="{row},{column}">\n<h3>{escape(removal)}</h3>\n'
        f'<p class="facts">{_facts(each, row)}</p>\n'
        f'<canvas {size} tabindex="0" role="img" aria-label="Scores of segments for {which}; '
        'arrow keys move through the segments"></canvas>\n'
        '<p class="readout" aria-live="polite"></p>\n'
        f'<canvas {size} tabindex="0" role="img" aria-label="The highest-scoring segments for {which}">'
        "</canvas>\n"
        '<p class="share"></p>\n</figure>\n'
    )


def _facts(each: Attribution, row: int) -> str:
    """Return two lines: how much was asked and how well it fits, and how sure the scores are."""
    asked = f"{each.n_samples:,} samples" if each.n_samples else ""
    fit = "" if each.r2 is None or not math.isfinite(each.r2[row]) else f"R² {float(each.r2[row]):.2f}"
    spread = spread_of(each, row)
    sure = f"scores {spread} (median)" if spread else ""
    region = "" if each.region is None else f"smallest region: {int(each.region[row].sum())} segments"
    lines = (", ".join(filter(None, pair)) for pair in ((fit, asked), (sure, region)))
    return "\n".join(filter(None, lines)) or "&nbsp;"


def _end(color: tuple[float, float, float]) -> str:
    """Return the colour at an end of the scale: a full tint over white."""
    return "rgb({}, {}, {})".format(*(round(255 * (1 - TINT + TINT * part)) for part in color))
