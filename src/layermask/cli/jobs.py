"""Many pictures in one run: finding them in folders and wildcards, one progress bar, resuming."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from layermask.cli import options
from layermask.cli.outcome import BAD_INPUT
from layermask.data.files import SUFFIXES
from layermask.data.images import load_image
from layermask.errors import ImageError, InputError, printable
from layermask.io.atomic import (
    exists,
    expanded,
    is_file,
    is_folder,
    make_folder,
    read_bytes,
    read_json,
    write_all,
)
from layermask.io.progress import bar
from layermask.io.record import sealed, sha256, to_json, versions
from layermask.studies.prepared import PreparedImage, open_image

if TYPE_CHECKING:
    import torch

    from layermask.removal.reading import OutputName
    from layermask.zoo.loaded import Loaded

Advance = Callable[[float], None]
"""Is told the share of a picture's work that was just done."""


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
    """Return a name. Pictures that differ only in their endings, a.jpg and a.png, keep them."""
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
    """Return the folder, after checking that the files of all pictures can be written in it.

    Their names are those of the pictures with the `endings`. Half-written files of killed runs are removed.

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


class Found(NamedTuple):
    """What a command makes of a picture: its figure, its record, and other files that it wrote."""

    figure: bytes
    record: Mapping[str, Any]
    others: Sequence[Path] = ()


@dataclass(frozen=True)
class Session:
    """A command over pictures: what stays the same from picture to picture."""

    command: str
    jobs: Sequence[Job]
    folder: Path
    loaded: Loaded
    device: torch.device
    weights: Path | None
    quiet: bool
    json: bool
    output: OutputName
    scored: bool
    nodata: str | None = None

    @classmethod
    def open(
        cls,
        command: str,
        jobs: Sequence[Job],
        out: Path,
        model: str,
        weights: Path | None,
        device: str,
        quiet: bool,
        json: bool,
        *endings: str,
        output: OutputName = "probability",
        nodata: str | None = None,
        scored: bool = True,
        fitted: Path | None = None,
    ) -> Session:
        """Load the model, after finding that the first picture can be read and all files written.

        `endings`: of files beside the figure and the record. `scored`: the model has to answer scores.
        """
        folder = prepare_folder(out, jobs, [f"_{command}.png", f"_{command}.json", *endings])
        if nodata is not None:
            from layermask.data.nodata import load_valid

            load_valid(jobs[0].image, nodata_of(nodata, jobs[0]))
        load_image(jobs[0].image, gaps=nodata is not None)
        loaded = load_model(model, weights, device, output, scored, fitted)
        return cls(command, jobs, folder, *loaded, weights, quiet, json, output, scored, nodata)

    @property
    def alone(self) -> bool:
        return len(self.jobs) == 1

    def print_line(self, text: str) -> None:
        """Print what a user reads of one picture alone."""
        if self.alone and not (self.quiet or self.json):
            typer.echo(printable(text))

    def run(
        self,
        work: Callable[[PreparedImage, Job, Advance], Found],
        request: Callable[[Job], Mapping[str, Any]],
        title: str,
    ) -> None:
        """Do the work for every picture, but for those that an earlier run has done; see `go_through`.

        `request`: what the results depend on besides the picture and the model.
        """

        from layermask.removal.registry import statistics_record

        def whole(job: Job) -> dict[str, Any]:
            model = self.loaded.record(self.weights)
            nodata = {} if self.nodata is None else {"nodata": _nodata_record(self.nodata, job)}
            asked = request(job)
            fitted = statistics_record(self.loaded.model, asked.get("removals", ()))
            return {"layermask": versions()["layermask"], "model": model, **asked, **nodata, **fitted}

        def one(job: Job, advance: Advance) -> str | None:
            return self.one(job, work, whole(job), advance)

        go_through(self.jobs, one, lambda job: self._earlier(job, whole(job)), title, self.quiet)
        if not (self.alone or self.quiet):
            words = f"layermask: {len(self.jobs)} pictures are in {self.folder}, each as *_{self.command}.png"
            typer.echo(printable(f"{words} and .json"), err=True)

    def one(self, job: Job, work: Callable, request: Mapping[str, Any], advance: Advance) -> str | None:
        """Write and print what is found for one picture, and return which engine answered."""
        nodata = None if self.nodata is None else nodata_of(self.nodata, job)
        how = (self.loaded, self.device, self.weights, self.output, self.scored, nodata)
        found = work(open_image(job.image, *how), job, advance)
        record = sealed({"command": self.command, "request": request, **found.record}, found.figure)
        figure, text = self._files(job), to_json(record)
        make_folder(figure["png"].parent)
        write_all({figure["png"]: found.figure, figure["json"]: text.encode()})
        if self.json:
            typer.echo(text if self.alone else _in_one_line(text), nl=not self.alone)
        self.print_line(f"wrote {' and '.join(map(str, [*figure.values(), *found.others]))}")
        return record.get("engine_used")

    def _files(self, job: Job) -> dict[str, Path]:
        return {end: self.folder / f"{job.name}_{self.command}.{end}" for end in ("png", "json")}

    def _earlier(self, job: Job, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the record that an earlier run has written for the same request, if both files are whole."""
        picture, record = self._files(job).values()
        if not exists(picture) or not exists(record):
            return None
        try:
            stored = read_json(record, "record")
            if stored != sealed(stored, read_bytes(picture, "picture")):
                raise ValueError
        except (ValueError, AttributeError, RecursionError):
            warnings.warn(
                f"{record} or its picture is damaged or of an older version: done again", stacklevel=2
            )
            return None
        same = stored.get("request") == json.loads(json.dumps(request))
        return stored if same and stored["image"]["sha256"] == sha256(job.image) else None


def _in_one_line(text: str) -> str:
    """Return a JSON record as one line, of which many make a JSON Lines file."""
    return printable(json.dumps(json.loads(text), ensure_ascii=False))


def go_through(
    jobs: Sequence[Job],
    work: Callable[[Job, Advance], str | None],
    finished: Callable[[Job], Mapping[str, Any] | None],
    title: str,
    quiet: bool,
) -> None:
    """Do `work(job, advance)` for every picture that is not `finished`, with one bar over all of them.

    `advance` takes the share of the picture's work just done; `work` returns which engine answered;
    `finished` returns the record of an earlier run. A picture that cannot be used is named, the others are
    done, and the exit status is that of bad input. One picture alone is always done, without a bar.
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
    with nullcontext(lambda share: None) if quiet or not left else bar(title, len(left)) as advance:
        for job in left:
            try:
                _compare_engines(engines, work(job, advance))
            except InputError as error:
                failed += 1
                advance(1)
                typer.echo(f"layermask: {' '.join(str(error).split())}", err=True)
    if failed:
        typer.echo(f"layermask: {failed} of {len(jobs)} pictures failed, see above", err=True)
        raise typer.Exit(BAD_INPUT)


def _engine_of_done(finished: Callable[[Job], Mapping[str, Any] | None], job: Job) -> str | None:
    """Return which engine answered for a picture that is done ("" if unknown), or None if it is not."""
    try:
        record = finished(job)
    except InputError:  # of the picture or its mask: said when its turn comes
        return None
    return None if record is None else record.get("engine_used") or ""


def _compare_engines(before: set[str], used: str | None) -> None:
    """Warn if another engine answers than for the pictures of an earlier run."""
    if used and before and used not in before:
        warnings.warn(
            f"the engine that answers here is {used}, and it was {', '.join(sorted(before))} for the "
            "pictures done before: their answers differ by rounding",
            stacklevel=2,
        )


def load_model(
    model: str,
    weights: Path | None,
    device: str,
    output: OutputName = "probability",
    scored: bool = True,
    fitted: Path | None = None,
) -> tuple[Loaded, torch.device]:
    """Return the model and the device. The model is tried on a picture, so that errors come early.

    `fitted`: the file that removals which are fitted read for the model.
    """
    from layermask.removal.reading import OF_CLASSES
    from layermask.zoo import load, tried
    from layermask.zoo.device import torch_device

    where = torch_device(device)
    loaded = load(model, weights, where)
    if fitted is not None:
        from layermask.removal.fitted import give

        give(loaded.model, fitted)
    return tried(loaded, compared=output in OF_CLASSES) if scored else loaded, where


def nodata_of(nodata: str, job: Job) -> str:
    """Return what marks pixels without data in a picture: a mask file where that is in a folder."""
    folder = expanded(nodata)
    return str(mask_of(folder, job)) if is_folder(folder) else nodata


def _nodata_record(nodata: str, job: Job) -> str:
    file = expanded(nodata_of(nodata, job))
    return sha256(file) if is_file(file) else nodata


def mask_of(mask: Path, job: Job) -> Path:
    """Return the mask of a picture: the one mask file, or the file of the picture's name in a folder."""
    if not is_folder(mask):
        return mask
    found = sorted(p for p in mask.rglob("*") if str(p.relative_to(mask).with_suffix("")) == job.name)
    if not found:
        raise ImageError(f"no mask for {job.image} in {mask}: expected a file of the name {job.name}")
    return found[0]
