"""What the layouts share: pictures in folders, class folders, tables."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from layermask.errors import InputError, import_optional
from layermask.io.atomic import read_bytes

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .jp2 .pgm .png .ppm .tif .tiff .webp".split())
WNID = re.compile(r"n\d{8}")


@cache
def imagenet_classes() -> dict[str, int]:
    """Return the class index of each of the 1,000 WordNet ids, as timm holds them."""
    names = import_optional("timm.data", "timm").ImageNetInfo("imagenet-1k").label_names()
    return {wnid: index for index, wnid in enumerate(names)}


def class_index(wnid: str, where: Any) -> int:
    found = imagenet_classes().get(wnid)
    if found is None:
        raise InputError(
            f"{where}: {wnid!r} is not one of the 1,000 ImageNet classes: "
            "list the images in labels.csv instead"
        )
    return found


def pictures(folder: Path) -> list[Path]:
    """Return the pictures right in a folder, sorted."""

    def is_folder(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a loop of links: refused as a picture
            return False

    with os.scandir(folder) as entries:  # which knows files from folders without a look at each
        found = (each for each in entries if Path(each.name).suffix.lower() in SUFFIXES)
        names = [each.name for each in found if not is_folder(each)]
    return [folder / name for name in sorted(names)]


def class_folders(folder: Path) -> list[Path]:
    """Return the folders named by WordNet ids, sorted."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if WNID.fullmatch(path.name) and path.is_dir())


def by_class(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the pictures of class folders, with their classes."""
    for each in class_folders(folder):
        label = class_index(each.name, folder)
        yield from ((path, label) for path in pictures(each))


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the pictures below a folder by their place in it without the ending."""
    if not folder.is_dir():
        return {}
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header.

    Raises:
        InputError: it cannot be read, or a line has more fields than the header.
    """
    try:
        text = read_bytes(path, "table").decode("utf-8-sig").lstrip("\r\n")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"table {path} cannot be read: {error}") from error
    for number, row in enumerate(rows, 2):
        if None in row:
            raise InputError(f"table {path}, line {number}: there are more fields than in the first line")
    return rows
