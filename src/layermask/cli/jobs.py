"""Many pictures in one run: found in folders and globs, gone through with one bar, resumable."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import BAD_INPUT
from layermask.data.files import SUFFIXES
from layermask.errors import ImageError, InputError
from layermask.io.atomic import exists, is_file, is_folder, read_bytes, read_json

if TYPE_CHECKING:
    import torch

    from layermask.zoo.loaded import Loaded


@dataclass(frozen=True)
class Job:
    """One picture, and what its files are called: a path within the output folder, without an ending."""

    image: Path
    name: str


def find_jobs(arguments: Sequence[Path]) -> list[Job]:
    """Return the pictures that the arguments name: files, folders (with those within), wildcards.

    Raises:
        ImageError: an argument names no picture.
    """
    found = {
        os.path.realpath(path): (path, place) for argument in arguments for path, place in _expand(argument)
    }
    places = Counter(str(place.with_suffix("")) for _, place in found.values())
    return [Job(path, _name(place, places)) for path, place in found.values()]


def _name(place: Path, places: Counter[str]) -> str:
    """Two pictures of one name, a.jpg and a.png, are told apart by their endings."""
    plain = str(place.with_suffix(""))
    return plain if places[plain] == 1 else f"{plain}_{place.suffix.lstrip('.')}"


def _expand(argument: Path) -> list[tuple[Path, Path]]:
    """Return pictures and their places below the argument."""
    if is_folder(argument):
        paths = sorted(p for p in argument.rglob("*") if p.suffix.lower() in SUFFIXES and not is_folder(p))
        if not paths:
            raise ImageError(f"folder {argument} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return [(path, path.relative_to(argument)) for path in paths]
    if any(sign in argument.name for sign in "*?[") and not os.path.lexists(argument):
        return [(path, Path(path.name)) for path in _matching(argument)]
    return [(argument, Path(argument.name))]


def _matching(pattern: Path) -> list[Path]:
    try:
        paths = sorted(p for p in pattern.parent.glob(pattern.name) if is_file(p))
    except (OSError, ValueError):  # no pattern, as **a
        paths = []
    if not paths:
        raise ImageError(f"no file matches {pattern}")
    return paths


def prepare_folder(folder: Path, jobs: Sequence[Job], endings: Sequence[str], option: str = "--out") -> Path:
    """Return the folder, found to take the files of all pictures, whose names go on with the endings.

    What killed runs left half written there is removed.

    Raises:
        InputError: a file cannot be written; it and the option are named.
    """
    folder = options.output(folder, (), option)
    names = (f"{job.name}{ending}" for job in jobs for ending in endings)
    options.output(folder, names, f"{option}, or the picture another name")
    for place in {(folder / job.name).parent for job in jobs}:
        there = next(each for each in (place, *place.parents) if is_folder(each))
        options.output(there, (), option)
    return folder


def done_already(folder: Path, job: Job, command: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record that an earlier run has written for the same request, if both files are whole."""
    from layermask.io.record import sealed, sha256

    picture, record = (folder / f"{job.name}_{command}.{ending}" for ending in ("png", "json"))
    if not exists(picture) or not exists(record):
        return None
    try:
        stored = read_json(record, "record")
        if stored != sealed(stored, read_bytes(picture, "picture")):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        warnings.warn(f"{record} or its picture is damaged or of an older version: done again", stacklevel=2)
        return None
    same = stored.get("request") == json.loads(json.dumps(request))
    return stored if same and stored["image"]["sha256"] == sha256(job.image) else None


def go_through(
    jobs: Sequence[Job],
    work: Callable[[Job, Callable[[float], None]], str | None],
    finished: Callable[[Job], Mapping[str, Any] | None],
    title: str,
    quiet: bool,
) -> None:
    """Do `work(job, advance)` for every picture that is not `finished`, with one bar over all of them.

    `advance` takes the share of the picture's work just done; `work` returns which engine answered;
    `finished` returns the record of an earlier run. A picture that cannot be used is named, and the others
    are done; the status is that of bad input then. One picture alone is always done, without a bar.
    """
    if len(jobs) == 1:
        work(jobs[0], lambda share: None)
        return
    done = {job: _engine_of_done(finished, job) for job in jobs}
    left = [job for job, engine in done.items() if engine is None]
    if not quiet and len(left) < len(jobs):
        typer.echo(f"{len(jobs) - len(left)} of {len(jobs)} pictures were done by an earlier run", err=True)
    engines = set(filter(None, done.values()))
    failed = 0
    with _bar(title, len(left), quiet) as advance:
        for job in left:
            try:
                _compare_engines(engines, work(job, advance))
            except InputError as error:
                failed += 1
                typer.echo(f"layermask: {' '.join(str(error).split())}", err=True)
    if failed:
        typer.echo(f"layermask: {failed} of {len(jobs)} pictures failed, see above", err=True)
        raise typer.Exit(BAD_INPUT)


def _engine_of_done(finished: Callable[[Job], Mapping[str, Any] | None], job: Job) -> str | None:
    """Return which engine answered for a picture that is done, maybe "", or None if it is to be done."""
    try:
        record = finished(job)
    except InputError:  # of the picture or its mask: said when its turn comes
        return None
    return None if record is None else record.get("engine_used") or ""


def _compare_engines(before: set[str], used: str | None) -> None:
    """Say that another engine answers than did for the pictures of an earlier run."""
    if used and before and used not in before:
        warnings.warn(
            f"the engine that answers here is {used}, and it was {', '.join(sorted(before))} for the "
            "pictures done before: their answers differ by rounding",
            stacklevel=2,
        )


def _bar(title: str, total: int, quiet: bool) -> Any:
    if quiet:
        return nullcontext(lambda share: None)
    from layermask.io.progress import bar

    return bar(title, total)


def load_model(model: str, weights: Path | None, device: str) -> tuple[Loaded, torch.device]:
    """Return the model, tried out, and the device: what it cannot do is found before the work."""
    from layermask.zoo import load, tried
    from layermask.zoo.device import torch_device

    where = torch_device(device)
    return tried(load(model, weights, where)), where


def mask_of(mask: Path, job: Job) -> Path:
    """Return the mask of a picture: the one there is for all, or that of its name in a folder of masks."""
    if not is_folder(mask):
        return mask
    found = sorted(p for p in mask.rglob("*") if str(p.relative_to(mask).with_suffix("")) == job.name)
    if not found:
        raise ImageError(f"no mask for {job.image} in {mask}: expected a file of the name {job.name}")
    return found[0]
