"""Class names of a model, and the class that a user means by a name or a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from layermask.errors import InputError, MissingPackage, import_optional, nearest

_KNOWN: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
"""The class names of models that came with them, for as long as they live."""
_INDEX = re.compile(r"-?[0-9]{1,18}")  # no class has more digits


def imagenet() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names in the order of their WordNet ids, as timm holds them."""
    info = import_optional("timm.data", "timm").ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))


def numbered(count: int) -> tuple[str, ...]:
    """Return names for classes of which only the number is known: "class 0", "class 1", ..."""
    return tuple(f"class {index}" for index in range(count))


def for_count(count: int) -> tuple[str, ...]:
    """Return the names for a model of which only the number of classes is known: 1,000 are ImageNet's."""
    if count == 1000:
        try:
            return imagenet()
        except MissingPackage:
            pass
    return numbered(count)


def remember(model: Any, names: tuple[str, ...]) -> None:
    """Keep the class names of a model, so that a target may be a name."""
    if names:
        _KNOWN[model] = names


def class_names(model: Any) -> tuple[str, ...]:
    """Return the class names of a model, those that it was loaded with or its own, or none."""
    named = getattr(getattr(model, "config", None), "id2label", None)
    own = tuple(named[index] for index in sorted(named)) if isinstance(named, Mapping) else ()
    return _KNOWN.get(model, own)


def short(label: str) -> str:
    """Return the first of the synonyms: "tench" for "tench, Tinca tinca"."""
    return label.partition(",")[0]


def find_class(text: str, labels: Sequence[str]) -> int:
    """Return the class meant by `text`: an index, a name, one of its synonyms, or part of only one name."""
    if _INDEX.fullmatch(text.strip()):
        return _index(int(text), len(labels))
    wanted = text.strip().casefold()
    names = [[name.strip().casefold() for name in label.split(",")] for label in labels]
    exact = [
        index
        for index, synonyms in enumerate(names)
        if wanted in synonyms or wanted == labels[index].casefold()
    ]
    matches = exact or [index for index, label in enumerate(labels) if wanted and wanted in label.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        some = ", ".join(f"{index} {short(labels[index])}" for index in matches[:5])
        more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
        raise InputError(f"target {text!r} can mean {some}{more}: give the number")
    known = {synonym for synonyms in names for synonym in synonyms}
    raise InputError(f"the model has no class {text!r}{nearest(wanted, known)}")


def _index(index: int, count: int) -> int:
    if not 0 <= index < count:
        raise InputError(f"target {index} is outside the model's classes, 0 to {count - 1}")
    return index
