"""The kinds of sources: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layermask.arguments.declare import checked
from layermask.arguments.numbers import optional
from layermask.arguments.words import known
from layermask.arguments.words import path as path_kind
from layermask.data import layouts
from layermask.data.files import class_folders, pictures
from layermask.data.source import ImageSource, Sample
from layermask.errors import InputError
from layermask.io.atomic import exists, is_folder, reason


@dataclass(frozen=True)
class Layout:
    """A layout: its samples below a folder, whether a folder looks like it, and what it is."""

    samples: Callable[[Path, Path | None], list[Sample]]
    fits: Callable[[Path], bool]
    summary: str


def _has_classes(root: Path) -> bool:
    return any(class_folders(place) for place in (root, *(root / name for name in layouts.SPLITS)))


def _has_annotations(root: Path) -> bool:
    return any(root.glob("*.json")) or any(root.glob("annotations/*.json"))


# In the order in which a folder is compared with them: the more special first.
DATA_SOURCES: dict[str, Layout] = {
    "folder": Layout(
        layouts.folder,
        lambda root: layouts.table_file(root) is not None or bool(pictures(root)),
        "pictures and labels.csv (file,label); masks in masks/, saliency maps in saliency/",
    ),
    "imagenet-s": Layout(
        layouts.imagenet_s,
        lambda root: any(root.glob("*-segmentation")),
        "ImageNet-S: validation/ or train-semi/ with label maps in NAME-segmentation/",
    ),
    "salient-imagenet": Layout(
        layouts.salient_imagenet,
        lambda root: any(root.glob("n[0-9]*/feature_*")),
        "Salient ImageNet: saliency maps in WNID/feature_N/",
    ),
    "pixel-imagenet": Layout(
        layouts.pixel_imagenet, _has_annotations, "Pixel ImageNet: COCO-style masks in one JSON file"
    ),
    "imagenet": Layout(
        layouts.imagenet,
        _has_classes,
        "ImageNet: folders by WordNet id, here or in val/ or train/; masks/ as PNG",
    ),
}


@checked(path=path_kind, images=optional(path_kind))
def open_source(path: str | Path, kind: str = "auto", images: str | Path | None = None) -> ImageSource:
    """Open a folder of labelled pictures; nothing is decoded yet.

    `kind`: a name in `DATA_SOURCES`, or "auto", which looks at the folder. `images`: where the pictures lie
    if they are not beside their masks or saliency maps.

    Raises:
        InputError: a folder or file is missing, or the layout is none of these; what was seen is named.
    """
    known("kind of data", kind, ["auto", *DATA_SOURCES])
    root, place = _folder(Path(path)), _folder(Path(images)) if images is not None else None
    try:
        kind = _guess(root) if kind == "auto" else kind
        return ImageSource(kind, root, tuple(DATA_SOURCES[kind].samples(root, place)))
    except OSError as error:
        raise InputError(f"data {error.filename or root} cannot be read: {reason(error)}") from error


def _folder(path: Path) -> Path:
    if not is_folder(path):
        what = "is a file" if exists(path) else "does not exist"
        raise InputError(f"data {path} {what}: give a folder")
    return Path(os.path.realpath(path))


def _guess(root: Path) -> str:
    found = next((name for name, kind in DATA_SOURCES.items() if kind.fits(root)), None)
    if found is None:
        seen = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
        some = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
        raise InputError(
            f"data {root} is of no known layout; it holds {some or 'nothing'}: expected labels.csv, or "
            f"folders as n01440764; say --kind if it is one of {', '.join(DATA_SOURCES)}"
        )
    return found
