"""The layouts of folders: each function returns the samples of one, or raises and names what is missing."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from layermask.data.files import (
    WNID,
    by_class,
    by_stem,
    class_folders,
    class_index,
    imagenet_classes,
    pictures,
    read_table,
)
from layermask.data.images import MAX_PIXELS
from layermask.data.overlays import ClassPixels, MaskFile, MostSalient, Shape, Shapes, whole
from layermask.data.source import Sample
from layermask.errors import InputError
from layermask.io.atomic import exists, read_bytes, read_json

T = TypeVar("T")

TABLES = ("labels.csv", "index.csv")
SPLITS = ("val", "validation", "train")


def table_file(root: Path) -> Path | None:
    # A file that cannot be read, as a pipe, counts as found: it is refused later, not skipped.
    return next((root / name for name in TABLES if os.path.lexists(root / name)), None)


def folder(root: Path, images: Path | None) -> list[Sample]:
    """A plain folder: labels.csv (file, and label, mask, saliency where known), or just pictures.

    Masks may also lie in masks/ and saliency maps in saliency/, under the names of the pictures.
    """
    place = images or root
    masks, maps = by_stem(root / "masks"), by_stem(root / "saliency")
    table = table_file(root)
    rows = read_table(table) if table else [{"file": path.name} for path in pictures(place)]
    samples = []
    for number, row in enumerate(rows, 2):
        name = row.get("file") or row.get("image")
        if not name:
            raise InputError(f"{table}, line {number}: expected the columns file,label; got {', '.join(row)}")
        stem = Path(name).with_suffix("").as_posix()
        mask = root / row["mask"] if row.get("mask") else masks.get(stem)
        map_ = root / row["saliency"] if row.get("saliency") else maps.get(stem)
        samples.append(
            Sample(
                name,
                _existing(place / name, f"{table}, line {number}"),
                _label(row.get("label"), f"{table}, line {number}"),
                MaskFile(mask) if mask else None,
                MostSalient((map_,)) if map_ else None,
            )
        )
    _once_each(samples, root)
    return samples


def _label(text: str | None, where: str) -> int | None:
    if text is None or not text.strip():
        return None
    if text.strip().isdecimal() and len(text) < 20:
        return int(text)
    if WNID.fullmatch(text.strip()):
        return class_index(text.strip(), where)
    raise InputError(f"{where}: label {text!r} is neither a class index, 0 or more, nor a WordNet id")


def _existing(path: Path, where: str) -> Path:
    if not os.path.lexists(path):  # a broken link counts as an image that cannot be read
        raise InputError(f"{where}: there is no image {path}")
    return path


def _once_each(samples: list[Sample], root: Path) -> None:
    twice = [name for name, count in Counter(sample.name for sample in samples).items() if count > 1]
    if twice:
        raise InputError(f"{root} lists {len(twice)} images more than once, the first is {twice[0]}")


def imagenet(root: Path, images: Path | None) -> list[Sample]:
    """ImageNet as torchvision reads it: folders by WordNet id, here or in val/ or train/.

    Masks may lie in masks/, in the same folders, as PNG; or, if the images are elsewhere, right here, as
    those of Pixel ImageNet do in the paper's released code.
    """
    place = split_of(images or root)
    masks = by_stem(root / "masks") or (by_stem(root) if images else {})
    samples = []
    for path, label in by_class(place):
        name = path.relative_to(place)
        mask = masks.get(name.with_suffix("").as_posix())
        samples.append(Sample(name.as_posix(), path, label, MaskFile(mask) if mask else None))
    return samples


def split_of(root: Path) -> Path:
    """Return the folder that holds the class folders."""
    if class_folders(root):
        return root
    found = [root / name for name in SPLITS if class_folders(root / name)]
    if len(found) != 1:
        what = (
            f"both {' and '.join(p.name for p in found)}: give one" if found else "no folders n01440764, ..."
        )
        raise InputError(f"{root} holds {what}")
    return found[0]


def imagenet_s(root: Path, images: Path | None) -> list[Sample]:
    """ImageNet-S: validation/ or train-semi/, and beside it the label maps, NAME-segmentation/."""
    found = [name for name in ("validation", "train-semi") if (root / f"{name}-segmentation").is_dir()]
    if not found:
        raise InputError(f"{root} holds neither validation-segmentation nor train-semi-segmentation")
    place, maps = images or root / found[0], by_stem(root / f"{found[0]}-segmentation")
    values = _class_values(root, place)
    samples = []
    for path, label in by_class(place):
        name = path.relative_to(place)
        map_ = maps.get(name.with_suffix("").as_posix())
        if map_ and path.parent.name not in values:
            raise InputError(f"{root} has a label map of {name}, of a class that is not among its categories")
        mask = ClassPixels(map_, values[path.parent.name]) if map_ else None
        samples.append(Sample(name.as_posix(), path, label, mask))
    return samples


# The classes that ImageNet-S-919 puts together with another, from its documentation.
_MERGED = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}


def _class_values(root: Path, place: Path) -> dict[str, int]:
    """Return the values of the classes in label maps: their places, from 1, in the sorted list of all."""
    listed = sorted(root.glob("ImageNetS_categories_im*.txt"))
    names = _words(listed[0]) if listed else [path.name for path in class_folders(place)]
    if not listed and len(names) not in (50, 300, 919):
        raise InputError(
            f"{place} has {len(names)} classes and ImageNet-S 50, 300 or 919, so the values in its label "
            f"maps are not known: put ImageNetS_categories_im*.txt into {root}"
        )
    values = {name: value for value, name in enumerate(sorted(names), 1)}
    return values | {name: values[into] for name, into in _MERGED.items() if into in values}


def _words(path: Path) -> list[str]:
    try:
        return read_bytes(path, "list of classes").decode("utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"list of classes {path} cannot be read: {error}") from error


def salient_imagenet(root: Path, images: Path | None) -> list[Sample]:
    """Salient ImageNet: WNID/feature_NUMBER/ with maps (and images), or maps alone and ImageNet beside them.

    Where its discover_spurious_features.csv is there, only core features count; all of them otherwise.
    """
    core = _core_features(root)
    maps: dict[tuple[str, str], list[Path]] = defaultdict(list)
    own: dict[tuple[str, str], Path] = {}
    for each in class_folders(root):
        for feature in sorted(each.glob("feature_*")):
            inner = feature / "cams"
            if core is None or (each.name, feature.name.removeprefix("feature_")) in core:
                for path in pictures(inner if inner.is_dir() else feature):
                    maps[each.name, path.stem].append(path)
            if (feature / "images").is_dir():
                own |= {(each.name, path.stem): path for path in pictures(feature / "images")}
    place = own or _by_class_and_stem(images or root)
    return [
        Sample(
            f"{wnid}/{stem}",
            _found(place, wnid, stem, root),
            class_index(wnid, root),
            None,
            MostSalient(tuple(p)),
        )
        for (wnid, stem), p in sorted(maps.items())
    ]


def _by_class_and_stem(root: Path) -> dict[tuple[str, str], Path]:
    if not (place := next((root / name for name in SPLITS if class_folders(root / name)), None)):
        place = root if any(pictures(each) for each in class_folders(root)) else None
    if place is None:
        raise InputError(f"{root} holds saliency maps and no images: say where ImageNet is, --images DIR")
    return {(path.parent.name, path.stem): path for path, _ in by_class(place)}


def _found(place: dict[tuple[str, str], Path], wnid: str, stem: str, root: Path) -> Path:
    if (wnid, stem) not in place:
        raise InputError(f"{root} has a saliency map of {wnid}/{stem}, of which there is no image")
    return place[wnid, stem]


_VOTE = {"Input.wordnet_id", "Input.feature_index", "Answer.main"}


def _core_features(root: Path) -> set[tuple[str, str]] | None:
    """Return (WordNet id, feature), or None for all.

    Core is what fewer than three of five workers took for a separate object or background.
    """
    found = next(iter(sorted(root.rglob("discover_spurious_features.csv"))), None)
    if found is None:
        return None
    votes: Counter[tuple[str, str]] = Counter()
    for row in read_table(found):
        if not row.keys() >= _VOTE:
            raise InputError(f"table {found} lacks one of the columns {', '.join(sorted(_VOTE))}")
        key = row["Input.wordnet_id"], row["Input.feature_index"]
        votes[key] += row["Answer.main"] in ("separate_object", "background")
    return {key for key, count in votes.items() if count < 3}


def pixel_imagenet(root: Path, images: Path | None) -> list[Sample]:
    """Pixel ImageNet: COCO-style annotations in one JSON file (images, annotations, categories)."""
    path, content = coco_file(root)
    numbers = {kind: _numbers(path, content, kind) for kind in ("images", "categories")}
    masks: dict[Any, list[tuple[Any, Shape]]] = defaultdict(list)
    for image, category, shape in _entries(path, content, "annotations", partial(_annotation, numbers)):
        masks[image].append((category, shape))
    wnids = dict(zip(numbers["categories"], _entries(path, content, "categories", _wnid), strict=True))
    read = partial(_annotated, masks=masks, wnids=wnids, place=images or root)
    samples = list(_entries(path, content, "images", read))
    _numbered(f"annotations {path}", "images", "image", (sample.name for sample in samples))
    return sorted(samples, key=lambda sample: sample.name)


def _entries(
    path: Path, content: dict[str, Any], kind: str, read: Callable[[str, dict[str, Any]], T]
) -> Iterator[T]:
    """Yield what each entry of a kind holds; `read` is told where it stands, for errors.

    Raises:
        InputError: an entry cannot be used; its number is named.
    """
    if not isinstance(content[kind], list):
        raise InputError(f"annotations {path}: {kind} is not a list: expected COCO's form")
    for number, entry in enumerate(content[kind]):
        where = f"annotations {path}: entry {number} of {kind}"
        try:
            yield read(where, entry)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{where} is not in COCO's form ({what})") from error


def _numbers(path: Path, content: dict[str, Any], kind: str) -> dict[int | str, int]:
    """Return the numbers of the entries of a kind, by their ids."""
    ids = _entries(path, content, kind, lambda where, entry: _id(entry["id"]))
    return _numbered(f"annotations {path}", kind, "id", ids)


def _numbered(file: str, kind: str, what: str, values: Iterable[T]) -> dict[T, int]:
    """Return the number of the entry that has each value, of which no other has the same.

    Raises:
        InputError: two entries have the same; both are named.
    """
    found: dict[T, int] = {}
    for number, value in enumerate(values):
        if value in found:
            raise InputError(
                f"{file}: entry {number} of {kind} has the {what} {value!r} of entry {found[value]}: "
                "list it once"
            )
        found[value] = number
    return found


def _annotation(
    numbers: dict[str, dict[int | str, int]], where: str, entry: dict[str, Any]
) -> tuple[int | str, int | str, Shape]:
    """Return the image and the category of an annotation, which there have to be, and its shape."""
    ids = []
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        ids.append(_id(entry[key]))
        if ids[-1] not in numbers[kind]:
            raise InputError(f"{where} has the {key} {ids[-1]!r}, and none of the {kind} has this id")
    return ids[0], ids[1], Shape(entry["segmentation"], where)


def _id(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"an id is {value!r}")
    return value


def _side(value: Any) -> int:
    if not 0 < whole(value) < 2**31:
        raise ValueError(f"a side is {value!r}, not pixels")
    return value


def coco_file(root: Path) -> tuple[Path, dict[str, Any]]:
    found = [*sorted(root.glob("*.json")), *sorted(root.glob("annotations/*.json"))]
    if len(found) != 1:
        raise InputError(
            f"{root} holds {len(found)} JSON files ({', '.join(p.name for p in found[:3])}): expected one, "
            "of COCO-style annotations"
        )
    content = read_json(found[0], "annotations")
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise InputError(
            f"annotations {found[0]} lack images, annotations or categories: expected COCO's form"
        )
    return found[0], content


def _wnid(where: str, category: dict[str, Any]) -> str | None:
    """Return the WordNet id that a category has under any of the usual names."""
    texts = (str(category.get(key, "")) for key in ("wnid", "name", "supercategory"))
    return next((text for text in texts if WNID.fullmatch(text)), None)


def _annotated(
    where: str,
    image: dict[str, Any],
    masks: dict[Any, list[tuple[Any, Shape]]],
    wnids: dict[Any, str | None],
    place: Path,
) -> Sample:
    name, found = image["file_name"], masks[image["id"]]
    if not name:
        raise ValueError("file_name is empty")
    wnid = _wnid_of_image(name, {wnids[category] for category, _ in found}, where)
    shapes = tuple(shape for category, shape in found if wnids[category] in (None, wnid))
    size = (_side(image["width"]), _side(image["height"]))
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]}x{size[1]} pixels are more than {MAX_PIXELS:,}")
    return Sample(
        name,
        _existing(_place(place, name), where),
        class_index(wnid, where),
        Shapes(shapes, size, name, where) if shapes else None,
    )


def _place(place: Path, name: str) -> Path:
    """Images lie where their names say, in images/, or in the split's folder."""
    choices = [place / name, *(place / inner / name for inner in ("images", *SPLITS))]
    return next((path for path in choices if exists(path)), choices[0])


def _wnid_of_image(name: str, wnids: set[str | None], where: str) -> str:
    """The folder of the image says the class, or else its only category."""
    folders: Iterator[str] = (part for part in reversed(Path(name).parts[:-1]) if WNID.fullmatch(part))
    known = {wnid for wnid in wnids if wnid}
    found = next(folders, None) or (known.pop() if len(known) == 1 else None)
    if found is None or found not in imagenet_classes():
        raise InputError(
            f"{where}: the class of image {name} is not known, neither by a folder n01440764 nor by one "
            f"category of that name ({len(known)} categories)"
        )
    return found
