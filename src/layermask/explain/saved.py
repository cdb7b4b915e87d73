"""Attributions as JSON: numbers in full, segments as runs, targets that are no classes by their names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.removal.reading import Reading
from layermask.removal.targets import AnswerTarget, target_name
from layermask.segment.labels import of_segments, restore_segments

FORMAT = 1
DTYPES = {"bool": torch.bool, "float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # numbers of which JSON knows nothing


@dataclass(frozen=True)
class NamedTarget(AnswerTarget):
    """What stands for an object or a function that was explained, of which a file keeps the name."""

    name: str

    def __str__(self) -> str:
        return self.name

    def read(self, answer: Any, count: int, reading: Reading) -> Tensor:
        raise InputError(f"of the target {self.name!r} a file has kept the name alone: give the target again")


def saved(found: Any) -> dict[str, Any]:
    """Return the fields of an `Attribution` as JSON holds them."""
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    targets, segments = fields.pop("targets"), fields.pop("segments")
    return {
        "format": FORMAT,
        **{name: plain(value) for name, value in fields.items()},
        "targets": [each if isinstance(each, int) else {"name": target_name(each)} for each in targets],
        "segments": of_segments(segments.cpu()),
    }


def restored(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `saved` wrote.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or of another kind.
    """
    if record["format"] != FORMAT:
        raise ValueError(f"its format is {record['format']!r}, and {FORMAT} is known here")
    targets = tuple(NamedTarget(x["name"]) if isinstance(x, dict) else x for x in record["targets"])
    known = {"targets": targets, "segments": restore_segments(record["segments"])}
    others = {name: _value(value) for name, value in record.items() if name not in ("format", "request")}
    return {**others, **known}


def _value(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != {"dtype", "values"}:
        return value
    return torch.tensor(_numbers(value["values"]), dtype=DTYPES[value["dtype"]])


def _numbers(rows: Any) -> Any:
    return [_numbers(each) for each in rows] if isinstance(rows, list) else _ODD.get(rows, rows)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it; what it does not hold, as a function, by its name."""
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "values": plain(value.tolist())}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else target_name(value)
