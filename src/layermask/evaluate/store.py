"""Where results go: shards as they come, each whole or not there, and one table at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError, require
from layermask.evaluate.lock import locked
from layermask.files import output_folder, write_all
from layermask.record import to_json

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
KEY = b"layermask"
"""The entry of a Parquet file's metadata that says what the file is, as JSON."""
_PLACE = {"picture": "string", "row": "int64"}
"""Columns of shards alone: the picture, and the number of the row among those of the picture."""


def _parquet() -> Any:
    return require("pyarrow.parquet", "evaluate")


def _arrow() -> Any:
    return require("pyarrow", "evaluate")


def _compute() -> Any:
    return require("pyarrow.compute", "evaluate")


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
    damaged: list[Path] = field(default_factory=list)
    """Shards that could not be read, and were removed."""

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
            InputError: the settings differ, another run is at work there, or it cannot be written.
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
        for part in [*self.folder.glob(".*.part"), *self._shards.glob(".*.part")]:
            part.unlink()  # of a run that was killed while it wrote
        changes = [] if force else self._changes()
        if changes:
            raise InputError(
                f"{self.folder} holds the results of other settings ({'; '.join(changes)}): give another "
                "--out, or --force to start over"
            )
        if force:
            for path in (*self._shards.glob("*.parquet"), self.results):
                path.unlink(missing_ok=True)
        self._shards.mkdir(exist_ok=True)
        write_all(
            {
                self.folder / "settings.json": to_json(self.settings).encode(),
                self._shards / "images.json": to_json(self.images).encode(),
            }
        )
        self._read()

    @property
    def _shards(self) -> Path:
        return self.folder / "shards"

    def _changes(self) -> list[str]:
        """Return what differs from the earlier run in the folder, if there was one."""
        settings, images = self.folder / "settings.json", self._shards / "images.json"
        if not self.results.exists() and not any(self._shards.glob("*.parquet")):
            return []
        if not settings.exists():
            return ["settings.json is missing"]
        found = []
        for path in (settings, images):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                return [f"{path.name} cannot be read: {error}"]
        before, now = (_without_list(each) for each in (found[0], self.settings))
        return [*changes(before, now), *changed_images(found[1], self.images)]

    def _read(self) -> None:
        for path in sorted(self._shards.glob("*.parquet")):
            try:
                content = _told(_read_table(path))
                images, skipped = dict(content["images"]), dict(content["skipped"])
            except (*_damage(), KeyError, TypeError):
                path.unlink()
                self.damaged.append(path)
                continue
            mine = [name for name, mark in images.items() if self.images.get(name) == mark]
            self._know(mine, path, skipped)

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


def _without_list(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out how many pictures there are, and which: see `changed_images`."""
    data = {k: v for k, v in settings.get("data", {}).items() if k not in ("images", "digest")}
    return {**settings, "data": data}


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
