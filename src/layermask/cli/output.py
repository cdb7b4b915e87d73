"""What commands write and print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layermask.errors import printable


class Files(NamedTuple):
    """What was written: two paths, the JSON text, and which engine answered."""

    picture: Path
    record: Path
    text: str
    engine: str | None


def ranking_lines(ranking: list[tuple[str, float]]) -> str:
    return "\n".join(f"  {100 * probability:5.1f} %  {name}" for name, probability in ranking)


def in_one_line(text: str) -> str:
    """Return a JSON record as one line, of which many make a JSON Lines file."""
    from json import dumps, loads

    return printable(dumps(loads(text), ensure_ascii=False))


def write(folder: Path, stem: str, picture: bytes, record: Mapping[str, Any]) -> Files:
    """Write both files of a command, or neither; the record gets the checksums of both."""
    from layermask.io.atomic import make_folder, write_all
    from layermask.io.record import sealed, to_json

    text = to_json(sealed(record, picture))
    files = Files(folder / f"{stem}.png", folder / f"{stem}.json", text, record.get("engine_used"))
    make_folder(files.picture.parent)
    write_all({files.picture: picture, files.record: files.text.encode()})
    return files
