"""Moment matching and the choice by the mask: `Matched` and `Adaptive` against single removals.

Fitted on 60 pictures, chosen on 60 others and on half of the videos; confirmed on pictures and videos that
neither had seen.
"""

from __future__ import annotations

import io
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import ROOT, WEIGHTS, images, load, objects
from torch import Tensor

from layermask import LayerMasking, Settings
from layermask.data.source import ImageSource, Sample
from layermask.io.atomic import exists, make_folder, write_all
from layermask.metrics.shape_bias import broken_mask
from layermask.removal import ConstantFill
from layermask.removal.matched import Matched
from layermask.segment.segmenters import Slic
from layermask.zoo import Loaded

SEED = 26
FITTED, CHOOSING, CONFIRMING = 60, 60, 150
LEAST_OBJECT = 0.05  # of the picture: smaller objects are left out
OF_PICTURES = ("whole", "patches .2", "patches .5", "patches .7", "segments .3", "segments .6", "box")
OF_OBJECTS = ("whole", "object only", "object hidden", "broken mask")
OPERATORS = ("steady", "grey", "matched", "paper")


def pictures(part: str, limit: int | None = None) -> ImageSource:
    """Return labelled pictures to fit on, to choose with or to confirm with: no picture is in two parts."""
    source = images()
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(SEED)).tolist()
    begin = {"fitting": 0, "choosing": FITTED, "confirming": FITTED + CHOOSING}[part]
    count = {"fitting": FITTED, "choosing": CHOOSING, "confirming": CONFIRMING}[part]
    taken = order[begin : begin + min(count, limit or count)]
    return replace(source, samples=tuple(source.samples[i] for i in taken))


def cutouts(part: str) -> ImageSource:
    """Return the pictures with objects of every other video."""
    source = objects()
    videos = sorted({video(sample) for sample in source})
    mine = set(videos[part == "confirming" :: 2])
    return replace(source, samples=tuple(s for s in source.samples if video(s) in mine))


def video(sample: Sample) -> str:
    return sample.name.rpartition("_")[0]


@dataclass(frozen=True)
class Scene:
    """A picture and its masks, one per name in `OF_PICTURES` or `OF_OBJECTS`."""

    x: Tensor
    masks: Tensor


def of_picture(sample: Sample, loaded: Loaded, number: int) -> Scene:
    """Return the scene of a labelled picture; random numbers follow from its number."""
    x = loaded.preprocessing(sample.load_image())
    draw = torch.Generator().manual_seed(1000 * SEED + number)
    side = x.shape[-1]
    segments = Slic(60)(loaded.preprocessing.picture(x))
    masks = [torch.ones(side, side, dtype=torch.bool)]
    masks += [_patches(share, side, draw) for share in (0.2, 0.5, 0.7)]
    masks += [_shown(segments, share, draw) for share in (0.3, 0.6)]
    masks += [_box(side, draw)]
    return Scene(x, torch.stack(masks)[:, None])


def _patches(hidden: float, side: int, draw: torch.Generator, patch: int = 16) -> Tensor:
    cells = side // patch
    shown = _shown(torch.arange(cells**2).view(cells, cells), hidden, draw)
    return shown.repeat_interleave(patch, 0).repeat_interleave(patch, 1)


def _shown(labels: Tensor, hidden: float, draw: torch.Generator) -> Tensor:
    """Return where a label map is visible with this share of its labels hidden."""
    count = int(labels.max()) + 1
    ranks = torch.randperm(count, generator=draw)
    return ranks[labels] >= round(hidden * count)


def _box(side: int, draw: torch.Generator) -> Tensor:
    """Return a mask that shows one box of half the side."""
    top, left = torch.randint(0, side // 2 + 1, (2,), generator=draw).tolist()
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top : top + side // 2, left : left + side // 2] = True
    return mask


def of_object(sample: Sample, loaded: Loaded, number: int) -> Scene | None:
    """Return the scene of a picture with an object, or None if the model sees too little of it."""
    found = loaded.preprocessing.mask(sample.load_mask())
    if found.float().mean() <= LEAST_OBJECT:
        return None
    masks = [torch.ones_like(found), found, ~found, ~broken_mask(found)]
    return Scene(loaded.preprocessing(sample.load_image()), torch.cat(masks))


def fitted(loaded: Loaded, folder: Path, limit: int = FITTED) -> Matched:
    """Return the operator with statistics of the fitting pictures."""
    file, removal = folder / f"statistics-{limit}.pt", Matched(loaded.model)
    if not exists(file):
        x = torch.cat([loaded.preprocessing(sample.load_image()) for sample in pictures("fitting", limit)])
        content = io.BytesIO()
        torch.save(removal.fit(x).statistics, content)
        write_all({file: content.getvalue()})
    removal.statistics = torch.load(file, weights_only=False)
    return removal


def operators(loaded: Loaded, folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "steady": lambda: LayerMasking(loaded.model, settings=Settings.steady()),
        "grey": lambda: ConstantFill(loaded.model),
        "matched": lambda: fitted(loaded, folder),
        "paper": lambda: LayerMasking(loaded.model),
    }


def scenes(part: str, loaded: Loaded, limit: int) -> Iterator[tuple[str, Sample, Callable[[], Scene | None]]]:
    """Yield the kind of each scene of a part, its sample, and what makes it."""
    for number, sample in enumerate(pictures(part, limit)):
        yield "pictures", sample, lambda s=sample, n=number: of_picture(s, loaded, n)
    for number, sample in enumerate(cutouts(part)):
        yield "objects", sample, lambda s=sample, n=number: of_object(s, loaded, n)


@torch.no_grad()
def measure(loaded: Loaded, part: str, names: list[str], limit: int, out: Path) -> None:
    """Ask operators about all scenes of a part; what was asked before is left."""
    folder = make_folder(out / loaded.name)
    removals: dict[str, Any] = {}
    for kind, sample, make in scenes(part, loaded, limit):
        place = make_folder(folder / part / kind)
        stem = sample.path.stem
        left = [name for name in names if not exists(place / f"{stem}.{name}.npy")]
        if not left or exists(place / f"{stem}.none"):
            continue
        scene = make()
        if scene is None:
            write_all({place / f"{stem}.none": b""})
            continue
        write_all({place / f"{stem}.masks.npy": _bytes(np.packbits(scene.masks.numpy()))})
        for name in left:
            removal = removals.setdefault(name, operators(loaded, folder)[name]())
            write_all({place / f"{stem}.{name}.npy": _bytes(removal(scene.x, scene.masks).numpy())})


def _bytes(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["choosing", "confirming"])
    parser.add_argument("--models", nargs="+", default=[m for m in WEIGHTS if "squeeze" not in m])
    parser.add_argument("--only", nargs="+", default=list(OPERATORS), help="operators")
    parser.add_argument("--limit", type=int, default=CONFIRMING, help="labelled pictures of each part")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "matched", help="of all answers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        for model in given.models:
            measure(load(model), part, given.only, given.limit, given.out)
