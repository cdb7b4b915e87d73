"""Where results go: shards as they come, each whole or not there, and one table at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError, import_optional
from layermask.io.atomic import (
    exists,
    expanded,
    is_folder,
    output_folder,
    read_bytes,
    read_json,
    reason,
    write_all,
)
from layermask.io.record import to_json
from layermask.studies.lock import locked
from layermask.studies.registry import EXPERIMENTS

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
KEY = b"layermask"
"""The entry of a Parquet file's metadata that says what the file is, as JSON."""
CHECKSUM, ENGINE = "sha256", "engine_used"
"""Entries of what a file says of itself, and of the settings."""
_THEN = ", then "
"""Between engines that answered one after the other."""
_PLACE = {"picture": "string", "row": "int64"}
"""Columns of shards alone: the picture, and the number of the row among those of the picture."""


def _parquet() -> Any:
    return import_optional("pyarrow.parquet", "evaluate")


def _arrow() -> Any:
    return import_optional("pyarrow", "evaluate")


def _compute() -> Any:
    return import_optional("pyarrow.compute", "evaluate")


@dataclass
class Store:
    """The rows of one run in `folder`. Make it with `Store.open`.

    `settings`: all that rows depend on. `columns`: their names and Arrow types. `images`: the fingerprints of
    the run's pictures, by name, in their order. `done`: the shards of those that are done; `skipped`: those
    that have no rows, and why.
    """

    folder: Path
    settings: dict[str, Any]
    columns: Mapping[str, str]
    images: Mapping[str, str] = field(repr=False)
    done: dict[str, Path] = field(default_factory=dict, repr=False)
    skipped: dict[str, str] = field(default_factory=dict)
    engine_before: str | None = None
    """Which engines answered in the earlier runs, where that is known."""
    damaged: list[Path] = field(default_factory=list)
    """Shards that were not whole, and were removed."""

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: str | Path,
        settings: Mapping[str, Any],
        columns: Mapping[str, str],
        images: Mapping[str, str],
        force: bool = False,
    ) -> Iterator[Store]:
        """Open a folder for one run, with what an earlier run of the same settings left in it.

        One of the two runs may have more pictures, if they include those of the other. `force`: remove the
        earlier run's rows and start over.

        Raises:
            InputError: the settings differ or are damaged, another run is at work there, or the folder
                cannot be written.
        """
        _parquet()
        place = output_folder(folder)
        with locked(place):
            store = cls(place, json.loads(json.dumps(settings)), columns, images)
            store._begin(force)
            yield store

    @property
    def results(self) -> Path:
        return self.folder / "results.parquet"

    def _begin(self, force: bool) -> None:
        self._shards = output_folder(self.folder / "shards")
        if force:
            for path in (*self._shards.glob("*.parquet"), self.results):
                _remove(path)
        before = self._earlier()
        changes = self._changes(*before) if before else []
        if changes:
            raise InputError(
                f"{self.folder} holds the results of other settings ({'; '.join(changes)}): give another "
                "--out, or --force to start over"
            )
        known = before[0].get(ENGINE) if before else None
        self.settings[ENGINE] = self.engine_before = known if isinstance(known, str) else None
        self._write_settings()
        write_all({self._shards / "images.json": to_json(self.images).encode()})
        self._read()

    def _write_settings(self) -> None:
        write_all({self.folder / "settings.json": to_json(self.settings).encode()})

    def note_engine(self, used: str | None) -> str | None:
        """Keep in the settings which engine answers; return those of earlier runs if it is another one."""
        known = self.settings[ENGINE]
        if not used or used in str(known).split(_THEN):
            return None
        self.settings[ENGINE] = f"{known}{_THEN}{used}" if known else used
        self._write_settings()
        return self.engine_before

    def _earlier(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the settings and the images of the earlier run in the folder, if there was one."""
        if not exists(self.results) and not any(self._shards.glob("*.parquet")):
            return None
        return _mapping(self.folder / "settings.json"), _mapping(self._shards / "images.json")

    def _changes(self, settings: dict[str, Any], images: dict[str, Any]) -> list[str]:
        before, now = (_without_list(each) for each in (settings, self.settings))
        return [*changes(before, now), *changed_images(images, self.images)]

    def _read(self) -> None:
        for path in sorted(self._shards.glob("*.parquet")):
            try:
                images, skipped = self._content(path)
            except _damage():
                _remove(path)
                self.damaged.append(path)
                continue
            mine = [name for name, mark in images.items() if self.images.get(name) == mark]
            self._know(mine, path, skipped)

    def _content(self, path: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Return the fingerprints of the pictures of a shard and why some have no rows.

        Raises:
            Exception: one of `_damage`. The shard is not whole.
        """
        table = _read_table(path)
        content = _told(table)
        images, skipped = dict(content["images"]), dict(content["skipped"])
        _check_rows(table, {**_PLACE, **self.columns}, list(_PLACE))
        if not {*table["picture"].to_pylist(), *skipped} <= images.keys():
            raise ValueError("it has rows of other images than it says")
        return images, skipped

    def _know(self, names: Iterable[str], path: Path, skipped: Mapping[str, str]) -> None:
        for name in names:
            self.done[name] = path
            self.skipped.pop(name, None)
            if name in skipped:
                self.skipped[name] = skipped[name]

    def left(self) -> list[str]:
        """Return which of the pictures are still to be done."""
        return [name for name in self.images if name not in self.done]

    def add(self, found: Mapping[str, Sequence[Row]], skipped: Mapping[str, str]) -> None:
        """Keep the rows of some pictures, in one shard; pictures that were skipped are kept as such.

        Raises:
            InputError: the disk is full or the folder cannot be written; what was there stays.
        """
        names = [*found, *skipped]
        if not names:
            return
        content = {"images": {name: self.images[name] for name in names}, "skipped": dict(skipped)}
        rows = [
            {"picture": name, "row": number, **row}
            for name, mine in found.items()
            for number, row in enumerate(mine)
        ]
        path = self._new_shard()
        self._write(path, self._table(rows, {**_PLACE, **self.columns}), content)
        self._know(names, path, skipped)

    def _new_shard(self) -> Path:
        taken = [int(path.stem) for path in self._shards.glob("*.parquet") if path.stem.isdecimal()]
        return self._shards / f"{max(taken, default=0) + 1:06d}.parquet"

    def finish(self, classes: Sequence[str] = ()) -> Path:
        """Write all rows, in the order of the pictures, as `results.parquet`, and return its path.

        `classes`: the names of the model's classes, for those who read the rows.

        Raises:
            InputError: there are no rows, since all pictures were skipped.
        """
        tables = [self._rows(path) for path in sorted(set(self.done.values()))]
        skipped = [self.skipped[name] for name in self.images if name in self.skipped]
        if not sum(map(len, tables)):
            raise InputError(
                f"there are no usable images, all {len(skipped)} were skipped: {'; '.join(skipped[:2])}"
            )
        table = _arrow().concat_tables(tables)
        order = _compute().index_in(table["picture"], value_set=_arrow().array(list(self.images)))
        table = table.append_column("place", order).sort_by([("place", "ascending"), ("row", "ascending")])
        table = table.drop_columns(["place", *_PLACE])
        content = {
            "settings": self.settings,
            "images": len(self.done) - len(skipped),
            "skipped": skipped,
            "classes": list(classes),
        }
        self._write(self.results, table.combine_chunks(), content)
        return self.results

    def _rows(self, path: Path) -> Any:
        """Return the rows of a shard that are of this run: pictures of a larger one are not asked for."""
        table = _read_table(path).replace_schema_metadata(None)
        mine = [name for name, shard in self.done.items() if shard == path]
        return table.filter(_compute().is_in(table["picture"], value_set=_arrow().array(mine)))

    def _table(self, rows: list[Row], columns: Mapping[str, str]) -> Any:
        types = _arrow()
        fields = [(name, types.type_for_alias(kind)) for name, kind in columns.items()]
        return types.Table.from_pylist(rows, types.schema(fields))

    def _write(self, path: Path, table: Any, content: Mapping[str, Any]) -> None:
        told = json.dumps({**content, CHECKSUM: _checksum(table, content)}).encode()
        table = table.replace_schema_metadata({KEY: told})
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


def _without_list(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out how many pictures there are, and which: see `changed_images`; and which engine answered."""
    data = settings.get("data", {})
    if isinstance(data, dict):
        data = {k: v for k, v in data.items() if k not in ("images", "digest")}
    return {k: v for k, v in settings.items() if k != ENGINE} | {"data": data}


def changed_images(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what keeps two runs from sharing rows: pictures that are not the same, or two other lists."""
    other = [name for name, mark in before.items() if now.get(name, mark) != mark]
    if other:
        return [f"{len(other)} images or what belongs to them have changed: {_some(other)}"]
    gone = [name for name in before if name not in now]
    if gone and any(name not in before for name in now):
        return [f"{len(gone)} of {len(before)} images are not among the {len(now)} now: {_some(gone)}"]
    return []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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


@checked(path=kinds.path)
def read_results(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns of a results.parquet (or of the folder that holds it), and what it says of itself.

    That is "settings", the number of "images", why some were "skipped", the names of the "classes".

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = expanded(path)
    path = path / "results.parquet" if is_folder(path) else path
    if not exists(path):
        raise InputError(f"there are no results {path}: let layermask evaluate finish")
    try:
        table = _read_table(path)
        content = _told(table)
        _check_results(table, content)
    except InputError:
        raise
    except _damage() as error:
        raise InputError(
            f"results {path} cannot be read: {reason(error)}; run layermask evaluate again"
        ) from error
    return {name: table[name].to_numpy() for name in table.column_names}, content


def _mapping(path: Path) -> dict[str, Any]:
    """Return what a file of an earlier run says, an object of JSON."""
    advice = "give another --out, or --force to start over"
    if not exists(path):
        raise InputError(f"{path.parent} holds results and {path.name} is missing: {advice}")
    try:
        found = read_json(path, "settings")
    except InputError as error:
        raise InputError(f"{error}; {advice}") from error
    if not isinstance(found, dict):
        raise InputError(f"settings {path} cannot be read: it holds {_brief(found)}; {advice}")
    return found


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be removed: {reason(error)}") from error


def _read_table(path: Path) -> Any:
    source = _arrow().BufferReader(read_bytes(path, "results"))
    return _parquet().read_table(source, page_checksum_verification=True)


def _told(table: Any) -> dict[str, Any]:
    """Return what a file says of itself, without its checksum, which is compared.

    Raises:
        ValueError: it says nothing, or the checksum is that of other rows.
    """
    content = json.loads((table.schema.metadata or {}).get(KEY, b"nothing"))
    if not isinstance(content, dict):
        raise ValueError("it does not say what it is")
    kept = content.pop(CHECKSUM, None)  # files of version 0.1 before checksums have none
    if kept is not None and kept != _checksum(table, content):
        raise ValueError("its checksum is that of other content")
    return content


def _checksum(table: Any, content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the values and of what the file says of itself, however they are stored."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in table.column_names:
        column = table[name].combine_chunks()
        values = column.dictionary_encode() if _arrow().types.is_string(column.type) else None
        if values is not None:
            digest.update(json.dumps(values.dictionary.to_pylist()).encode())
        numbers = column if values is None else values.indices
        digest.update(f"{name} {column.type} {len(column)}".encode())
        digest.update(numbers.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _check_rows(table: Any, columns: Mapping[str, str], keys: Sequence[str]) -> None:
    """Refuse other columns than these, and rows that are there twice: whose keys are the same."""
    types = {each.name: each.type for each in table.schema}
    if types != {name: _arrow().type_for_alias(kind) for name, kind in columns.items()}:
        raise ValueError(f"its columns are not {', '.join(columns)}")
    if table.group_by(keys).aggregate([]).num_rows != len(table):
        raise ValueError("rows are there twice")


def _check_results(table: Any, content: Mapping[str, Any]) -> None:
    """Refuse results that do not say what they are, or have other rows than their experiment writes."""
    settings, kinds = content.get("settings"), {"images": int, "skipped": list, "classes": list}
    if not isinstance(settings, dict) or any(not isinstance(content.get(k), t) for k, t in kinds.items()):
        raise ValueError("it does not say what it is")
    known = EXPERIMENTS.get(settings.get("experiment", ""))
    if known is not None:
        _check_rows(table, known.experiment.columns, table.column_names)


def _damage() -> tuple[type[BaseException], ...]:
    """What reading a file that is not whole may raise."""
    return OSError, ValueError, KeyError, TypeError, RecursionError, _arrow().ArrowException
