"""Many pictures in one run: found in folders and globs, gone through with one bar, resumable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from layermask.cli.outcome import BAD_INPUT
from layermask.errors import ImageError, InputError

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .jp2 .pgm .png .ppm .tif .tiff .webp".split())


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
    found = {path.resolve(): (path, place) for argument in arguments for path, place in _expand(argument)}
    places = Counter(str(place.with_suffix("")) for _, place in found.values())
    return [Job(path, _name(place, places)) for path, place in found.values()]


def _name(place: Path, places: Counter[str]) -> str:
    """Two pictures of one name, a.jpg and a.png, are told apart by their endings."""
    plain = str(place.with_suffix(""))
    return plain if places[plain] == 1 else f"{plain}_{place.suffix.lstrip('.')}"


def _expand(argument: Path) -> list[tuple[Path, Path]]:
    """Return pictures and their places below the argument."""
    if argument.is_dir():
        paths = sorted(p for p in argument.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not paths:
            raise ImageError(f"folder {argument} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return [(path, path.relative_to(argument)) for path in paths]
    if any(sign in argument.name for sign in "*?[") and not argument.exists():
        paths = sorted(p for p in argument.parent.glob(argument.name) if p.is_file())
        if not paths:
            raise ImageError(f"no file matches {argument}")
        return [(path, Path(path.name)) for path in paths]
    return [(argument, Path(argument.name))]


def done_already(folder: Path, job: Job, command: str, request: Mapping[str, Any]) -> bool:
    """Whether an earlier run has written both files of this picture for the same request."""
    from layermask.record import sha256

    picture, record = (folder / f"{job.name}_{command}.{ending}" for ending in ("png", "json"))
    if not picture.exists():
        return False
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
        same = stored["request"] == json.loads(json.dumps(request))
        return same and stored["image"]["sha256"] == sha256(job.image)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def go_through(
    jobs: Sequence[Job],
    work: Callable[[Job, Callable[[float], None]], None],
    finished: Callable[[Job], bool],
    title: str,
    quiet: bool,
) -> None:
    """Do `work(job, advance)` for every picture that is not `finished`, with one bar over all of them.

    `advance` takes the share of the picture's work just done. A picture that cannot be used is named, and the
    others are done; the status is that of bad input then. One picture alone is always done, without a bar.
    """
    if len(jobs) == 1:
        return work(jobs[0], lambda share: None)
    left = [job for job in jobs if not finished(job)]
    if not quiet and len(left) < len(jobs):
        typer.echo(f"{len(jobs) - len(left)} of {len(jobs)} pictures were done by an earlier run", err=True)
    failed = 0
    with _bar(title, len(left), quiet) as advance:
        for job in left:
            try:
                work(job, advance)
            except InputError as error:
                failed += 1
                typer.echo(f"layermask: {' '.join(str(error).split())}", err=True)
    if failed:
        typer.echo(f"layermask: {failed} of {len(jobs)} pictures failed, see above", err=True)
        raise typer.Exit(BAD_INPUT)


def _bar(title: str, total: int, quiet: bool) -> Any:
    if quiet:
        return nullcontext(lambda share: None)
    from layermask.progress import bar

    return bar(title, total)
