"""Experiments over the pictures of a source: what is done already is left, the rest is kept as it comes."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from layermask.arguments import kinds
from layermask.arguments.declare import Kind, checked
from layermask.arguments.refusal import has, wrong_type
from layermask.data.source import ImageSource, Sample
from layermask.errors import ImageError, InputError
from layermask.io import record
from layermask.io.ahead import ahead
from layermask.removal.registry import statistics_record
from layermask.studies.store import Row, Store
from layermask.zoo.loaded import Loaded, parameters_digest

StudyProgress = Callable[[Store, int], AbstractContextManager[Callable[[float], None]]]
"""From the store and the number of pictures that are left: a context of `advance(pictures)`."""

SHARD_IMAGES, SHARD_SECONDS = 64, 30.0
"""A shard is written after so many pictures or seconds, and that much at most is done again after a kill."""


class Experiment(Protocol):
    """What a run needs: rows for one picture, by `prepare` on a loading thread and `rows` on the model's."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, str]]

    def check(self, source: ImageSource, loaded: Loaded) -> None: ...
    def settings(self, source: ImageSource) -> dict[str, Any]: ...
    def prepare(self, sample: Sample, loaded: Loaded) -> Any: ...
    def rows(self, scene: Any, loaded: Loaded, device: torch.device, batch_size: int) -> list[Row]: ...


def _experiment(name: str, value: Any) -> Any:
    """Return what has the parts of an `Experiment`."""
    if not has(value, "name", "columns", "prepare", "rows") or isinstance(value, type):
        raise wrong_type(name, value, "give an experiment, as SegmentStudy()")
    return value


OF_A_RUN: dict[str, Kind] = {
    "loaded": partial(kinds.instance, kind=Loaded),
    "source": partial(kinds.instance, kind=ImageSource),
    "folder": kinds.path,
    "weights": kinds.optional(kinds.path),
    "device": kinds.optional(kinds.device),
    "batch_size": kinds.count,
    "skip_unreadable": kinds.flag,
    "force": kinds.flag,
    "progress": kinds.function,
}
"""What everything that runs over pictures takes, by kind."""


@checked(experiment=_experiment, **OF_A_RUN)
def run(
    experiment: Experiment,
    loaded: Loaded,
    source: ImageSource,
    folder: str | Path,
    *,
    weights: Path | None = None,
    device: torch.device | None = None,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    force: bool = False,
    progress: StudyProgress = lambda store, left: nullcontext(lambda done: None),
) -> Store:
    """Make the experiment with every picture, and write `folder`/results.parquet.

    A run that was stopped, however, goes on where it was and ends with the same table; so does one with more
    or fewer of the same pictures. `batch_size` masks are asked about at a time, all of one picture.
    `weights`: the file that the model was loaded from. `skip_unreadable`: leave out pictures that cannot be
    read; they are counted in the results. `force`: start over, whatever the folder holds.

    Raises:
        ImageError: a picture cannot be read; those before it are kept.
        InputError: the settings differ from those in the folder, or what `experiment.check` finds.
    """
    experiment.check(source, loaded)
    device = device or next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
    settings = describe(experiment, loaded, source, weights, device)
    samples = {sample.name: sample for sample in source}
    with Store.open(folder, settings, experiment.columns, source.fingerprints(), force) as store:
        left, other = store.left(), None
        scenes = ahead(lambda name: experiment.prepare(samples[name], loaded), left)
        with closing(scenes), progress(store, len(left)) as advance, _Shard(store) as shard:
            for name, scene in zip(left, scenes, strict=True):
                try:
                    ready = scene()
                except ImageError as error:
                    if not skip_unreadable:
                        raise _with_advice(error) from error
                    shard.skip(name, str(error))
                else:
                    with _named(name):
                        rows = experiment.rows(ready, loaded, device, batch_size)
                    shard.keep(name, rows)
                    other = _note_engine(store, getattr(experiment, "engine_used", None)) or other
                advance(1)
        if other:  # said by now that no thread decodes any more: decoding silences warnings everywhere
            warnings.warn(other, stacklevel=2)
        store.finish(loaded.labels)
        return store


def _note_engine(store: Store, used: str | None) -> str | None:
    """Return what to say if another engine answers now than for the images done before."""
    before = store.note_engine(used)
    return before and (
        f"the engine that answers here is {used}, and it was {before} for the images done before: the "
        "rows of both differ by rounding"
    )


@contextmanager
def _named(picture: str) -> Iterator[None]:
    """Name the picture in the message of an error."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"image {picture}: {error}") from error


def _with_advice(error: ImageError) -> ImageError:
    return ImageError(f"{error}; leave such images out with skip_unreadable (--skip-unreadable)")


class _Shard:
    """Rows that are not written yet; whatever ends the run, they are written."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._clear()

    def _clear(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.skipped: dict[str, str] = {}
        self.begun = time.monotonic()

    def keep(self, name: str, rows: list[Row]) -> None:
        self.rows[name] = rows
        self._flush_if_full()

    def skip(self, name: str, why: str) -> None:
        self.skipped[name] = why
        self._flush_if_full()

    def _flush_if_full(self) -> None:
        many = len(self.rows) + len(self.skipped) >= SHARD_IMAGES
        if many or time.monotonic() - self.begun > SHARD_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self.store.add(self.rows, self.skipped)
        self._clear()

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self._flush()
        else:
            with suppress(InputError):  # the error that ended the run says more
                self._flush()


def describe(
    experiment: Experiment, loaded: Loaded, source: ImageSource, weights: Path | None, device: torch.device
) -> dict[str, Any]:
    """Return all that the rows of a run depend on, for settings.json; batch sizes are not among it."""
    settings = experiment.settings(source)
    names = re.findall(r"[\w-]+", json.dumps(settings))
    versions = {name: version for name, version in record.versions().items() if name != "python"}
    return {
        "experiment": experiment.name,
        **settings,
        "data": {"name": source.name, "images": len(source), "digest": source.digest()},
        "model": {**loaded.record(weights), "parameters": parameters_digest(loaded.model)},
        **statistics_record(loaded.model, names),
        "device": device.type,
        "versions": versions,
    }
