"""What segment removal found, from the results alone: curves, and a small table of the areas under them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.evaluate.orders import GRADIENT, MAPS
from layermask.metrics.predictions import Predictions

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray]

HEADER = ("removal", "segmentation", "order", "ranking", "accuracy", "entropy", "unchanged")


@dataclass(frozen=True)
class Group:
    """A removal under a segmentation and an order: `curves` (K,) by name at rising `fractions` (K,)."""

    removal: str
    segmentation: str
    order: str
    ranking: str
    images: int
    fractions: Tensor
    curves: dict[str, Tensor]


def curves(columns: Columns) -> list[Group]:
    """Return the curves of accuracy, entropy and unchanged predictions, in the order of the settings."""
    keys = [columns[key].tolist() for key in ("removal", "segmentation", "order")]
    return [_group(columns, group) for group in dict.fromkeys(zip(*keys, strict=True))]


def _group(columns: Columns, group: tuple[str, str, str]) -> Group:
    named = zip(("removal", "segmentation", "order"), group, strict=True)
    matches = [columns[key] == value for key, value in named]
    chosen = matches[0] & matches[1] & matches[2]
    fractions, place = torch.unique(torch.from_numpy(columns["fraction"][chosen]), return_inverse=True)
    # The rows of a picture stand together, its fractions in the order of the settings.
    order = place.view(-1, len(fractions))[0].argsort()

    def grid(name: str) -> Tensor:
        return torch.from_numpy(columns[name][chosen]).view(-1, len(fractions))[:, order]

    found = Predictions(grid("prediction").long(), fractions, labels=grid("label")[:, 0].long())
    values = {
        "accuracy": found.curve("accuracy"),
        "entropy": found.curve("class-entropy"),
        "unchanged": grid("unchanged").double().mean(0),
    }
    return Group(*group, columns["ranking"][chosen][0], len(found.predicted), fractions, values)


def as_text(groups: list[Group]) -> str:
    """Return the areas under the curves, the means of their points, as a Markdown table."""
    rows = [HEADER, *map(_cells, groups)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(group: Group) -> tuple[str, ...]:
    areas = (f"{float(values.mean()):.4f}" for values in group.curves.values())
    return group.removal, group.segmentation, group.order, group.ranking, *areas


def as_csv(groups: list[Group]) -> str:
    """Return the curves, a line per point."""
    metrics = list(groups[0].curves)
    lines = [["removal", "segmentation", "order", "ranking", "images", "fraction", *metrics]]
    for each in groups:
        for point, fraction in enumerate(each.fractions.tolist()):
            values = [f"{float(each.curves[name][point]):.6f}" for name in metrics]
            setting = [each.removal, each.segmentation, each.order, each.ranking, str(each.images)]
            lines.append([*setting, f"{fraction:g}", *values])
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def in_words(content: dict[str, Any]) -> list[str]:
    """Return what a reader of the numbers has to know, from what `read_results` says of the file."""
    settings = content["settings"]
    lines = [f"{content['images']} images of {settings['data']['name']}; areas are means over the fractions."]
    if content["skipped"]:
        lines.append(f"{len(content['skipped'])} images were skipped: {content['skipped'][0]}")
    if settings["labels"] != "of the data":
        lines.append("The data has no labels: accuracy is agreement with the plain model's prediction.")
    if settings["saliency"] == MAPS:
        lines.append("Salient orders follow the saliency maps of the data.")
    if settings["saliency"] == GRADIENT:
        lines.append("The data has no saliency maps: salient orders follow the plain model's input gradient.")
    return lines
