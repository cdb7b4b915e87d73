"""Where results go: shards as they come, each whole or not there, and one table at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.errors import InputError, require
from layermask.evaluate.lock import locked
from layermask.files import output_folder, write_all
from layermask.record import to_json

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
KEY = b"layermask"
"""The entry of a Parquet file's metadata that says what the file is, as JSON."""
_PLACE = {"index": "int64", "row": "int64"}
"""Columns of shards alone: the number of the picture, and of the row among those of the picture."""


def _parquet() -> Any:
    return require("pyarrow.parquet", "evaluate")


def _arrow() -> Any:
    return require("pyarrow", "evaluate")


@dataclass
class Store:
    """The rows of one run in `folder`. Make it with `Store.open`.

    `settings`: all that rows depend on. `columns`: their names and Arrow types. `done`: the pictures, by
    number; `skipped`: those that have no rows, and why.
    """

    folder: Path
    settings: dict[str, Any]
    columns: Mapping[str, str]
    done: set[int] = field(default_factory=set, repr=False)
    skipped: dict[int, str] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    """Shards that could not be read, and were removed."""

    @classmethod
    @contextmanager
    def open(
        cls, folder: str | Path, settings: Mapping[str, Any], columns: Mapping[str, str], force: bool = False
    ) -> Iterator[Store]:
        """Open a folder for one run, with what an earlier run of the same settings left in it.

        `force`: if the settings differ, remove the earlier run's rows and start over.

        Raises:
            InputError: the settings differ, another run is at work there, or it cannot be written.
        """
        _parquet()
        place = output_folder(folder)
        with locked(place):
            store = cls(place, json.loads(json.dumps(settings)), columns)
            store._begin(force)
            yield store

    @property
    def results(self) -> Path:
        return self.folder / "results.parquet"

    def _begin(self, force: bool) -> None:
        for part in [*self.folder.glob(".*.part"), *self._shards.glob(".*.part")]:
            part.unlink()  # of a run that was killed while it wrote
        changes = self._changes()
        if changes and not force:
            raise InputError(
                f"{self.folder} holds the results of other settings ({'; '.join(changes)}): give another "
                "--out, or --force to start over"
            )
        if changes:
            for path in (*self._shards.glob("*.parquet"), self.results):
                path.unlink(missing_ok=True)
        write_all({self.folder / "settings.json": to_json(self.settings).encode()})
        self._shards.mkdir(exist_ok=True)
        self._read()

    @property
    def _shards(self) -> Path:
        return self.folder / "shards"

    def _changes(self) -> list[str]:
        path = self.folder / "settings.json"
        if not path.exists():
            return ["settings.json is missing"] if any(self._shards.glob("*.parquet")) else []
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return [f"settings.json cannot be read: {error}"]
        return changes(before, self.settings)

    def _read(self) -> None:
        for path in sorted(self._shards.glob("*.parquet")):
            try:
                content = _told(_read_table(path))
                images, skipped = content["images"], content["skipped"]
            except (*_damage(), KeyError, TypeError):
                path.unlink()
                self.damaged.append(path)
                continue
            self.done |= set(images)
            self.skipped |= {int(index): why for index, why in skipped.items()}

    def left(self, count: int) -> list[int]:
        """Return which of so many pictures are still to be done."""
        return [index for index in range(count) if index not in self.done]

    def add(self, found: Mapping[int, Sequence[Row]], skipped: Mapping[int, str]) -> None:
        """Keep the rows of some pictures, in one shard; pictures that were skipped are kept as such.

        Raises:
            InputError: the disk is full or the folder cannot be written; what was there stays.
        """
        images = sorted({*found, *skipped})
        if not images:
            return
        content = {"images": images, "skipped": {str(index): why for index, why in skipped.items()}}
        rows = [
            {"index": index, "row": number, **row}
            for index in images
            for number, row in enumerate(found.get(index, ()))
        ]
        path = self._shards / f"{images[0]:07d}-{images[-1]:07d}.parquet"
        self._write(path, self._table(rows, {**_PLACE, **self.columns}), content)
        self.done |= set(images)
        self.skipped |= skipped

    def finish(self, classes: Sequence[str] = ()) -> Path:
        """Write all rows, in the order of the pictures, as `results.parquet`, and return its path.

        `classes`: the names of the model's classes, for those who read the rows.

        Raises:
            InputError: there are no rows, since all pictures were skipped.
        """
        tables = [_read_table(path) for path in sorted(self._shards.glob("*.parquet"))]
        skipped = [self.skipped[index] for index in sorted(self.skipped)]
        if not sum(map(len, tables)):
            raise InputError(
                f"there are no usable images, all {len(skipped)} were skipped: {'; '.join(skipped[:2])}"
            )
        table = _arrow().concat_tables([table.replace_schema_metadata(None) for table in tables])
        table = table.sort_by([(name, "ascending") for name in _PLACE]).drop_columns(list(_PLACE))
        content = {
            "settings": self.settings,
            "images": len(self.done) - len(skipped),
            "skipped": skipped,
            "classes": list(classes),
        }
        self._write(self.results, table.combine_chunks(), content)
        return self.results

    def _table(self, rows: list[Row], columns: Mapping[str, str]) -> Any:
        types = _arrow()
        fields = [(name, types.type_for_alias(kind)) for name, kind in columns.items()]
        return types.Table.from_pylist(rows, types.schema(fields))

    def _write(self, path: Path, table: Any, content: Mapping[str, Any]) -> None:
        table = table.replace_schema_metadata({KEY: json.dumps(content).encode()})
        sink = _arrow().BufferOutputStream()
        # Checksums, so that a bit that flips on the disk is found and not believed.
        _parquet().write_table(table, sink, compression="zstd", write_page_checksum=True)
        try:
            write_all({path: sink.getvalue().to_pybytes()})
        except InputError as error:
            raise InputError(
                f"{error}; the {len(self.done)} images done before are kept: put that right and run the "
                "same command again"
            ) from error


def changes(before: Any, now: Any, name: str = "") -> list[str]:
    """Return what differs between two records, as "seed was 0 and is 1"."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [
            line
            for key in keys
            for line in changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [f"{name} was {_brief(before)} and is {_brief(now)}"]


def _brief(value: Any) -> str:
    text = "not set" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_results(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns of a results.parquet (or of the folder that holds it), and what it says of itself.

    That is "settings", the number of "images", why some were "skipped", the names of the "classes".

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(path) / "results.parquet" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise InputError(f"there are no results {path}: let layermask evaluate finish")
    try:
        table = _read_table(path)
        content = _told(table)
    except _damage() as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"results {path} cannot be read: {line}; run layermask evaluate again") from error
    return {name: table[name].to_numpy() for name in table.column_names}, content


def _read_table(path: Path) -> Any:
    return _parquet().read_table(path, page_checksum_verification=True)


def _told(table: Any) -> dict[str, Any]:
    return json.loads((table.schema.metadata or {}).get(KEY, b"nothing"))


def _damage() -> tuple[type[BaseException], ...]:
    """What reading a file that is not whole may raise."""
    return OSError, ValueError, _arrow().ArrowException
