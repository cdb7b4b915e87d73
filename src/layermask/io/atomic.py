"""Files: one way to open them, and output files that are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from layermask.errors import InputError, printable

_PART = re.compile(r"\..+\.(\d+)\.part")
"""The name of a file that is being written: .HASH.PROCESS.part."""
_BEGUN = time.time()


def expanded(path: str | Path) -> Path:
    """Return the path with `~` as the home folder: shells leave it as it is in --out=~/results."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no user of this name: it is kept, as in shells
        return Path(path)


def _holds(question: Callable[[Path], bool], path: str | Path) -> bool:
    try:
        return question(Path(path))
    except (OSError, ValueError):  # a name that is too long, for example
        return False


exists, is_file, is_folder = (partial(_holds, each) for each in (Path.exists, Path.is_file, Path.is_dir))
"""Whether a path exists, or is a file or a folder. False for one that cannot be looked up."""


def open_file(path: str | Path, what: str, error: type[InputError] = InputError) -> IO[bytes]:
    """Open a regular file to be read. `what` it is, as "image", begins the message of an error.

    Raises:
        InputError: or the `error` given. There is no such file, it cannot be read, or it is a folder, a pipe
            or a device; reading a pipe could wait forever.
    """
    name = f"{what} {path}"
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb")
    except FileNotFoundError:
        raise error(f"{name} does not exist") from None
    except (OSError, ValueError) as problem:  # a name too long, a loop of links, a folder that is closed
        raise error(f"{name} cannot be read: {reason(problem)}") from problem
    if stat.S_ISDIR(mode):
        raise error(f"{name} is a folder: give one file")
    raise error(f"{name} is a pipe, a socket or a device: give a file")


def read_bytes(path: str | Path, what: str, error: type[InputError] = InputError) -> bytes:
    """Return what a file holds; the arguments and errors are those of `open_file`."""
    with open_file(path, what, error) as file:
        try:
            return file.read()
        except OSError as problem:
            raise error(f"{what} {path} cannot be read: {reason(problem)}") from problem


def read_json(path: str | Path, what: str) -> Any:
    """Return what a JSON file holds; the arguments and errors are those of `open_file`."""
    try:
        return json.loads(read_bytes(path, what).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} {path} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the reason in one line: the system's message, or the first line of the error's."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text).splitlines()[0]


def output_folder(path: str | Path) -> Path:
    """Return a folder, made if it does not exist, after checking that it can be written in.

    Half-written files of killed runs are removed.

    Raises:
        InputError: the folder cannot be made or written in.
    """
    folder = make_folder(path)
    try:
        tempfile.TemporaryFile(dir=folder).close()
        clear_parts(folder)
    except OSError as error:
        raise InputError(f"cannot write in the folder {folder}: {reason(error)}") from error
    return folder


def make_folder(path: str | Path) -> Path:
    """Return a folder, made if it does not exist.

    Raises:
        InputError: it cannot be made.
    """
    folder = expanded(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write in the folder {folder}: {reason(error)}") from error
    return folder


def check_outputs(folder: Path, names: Iterable[str | Path]) -> None:
    """Check before the long work that files can have these names, paths within the folder.

    Raises:
        InputError: a name is too long for the file system, or is that of a folder.
    """
    for name in map(Path, names):
        path = folder / name
        try:
            if not os.path.lexists(path.parent):  # then nothing below it is looked up
                _look_up(*(folder / part for part in name.parts))
            _look_up(path)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {path}: {reason(error)}") from error
        if is_folder(path) and not path.is_symlink():
            raise InputError(f"cannot write {path}: there is a folder of that name")


def _look_up(*paths: Path) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            path.lstat()


def clear_parts(folder: Path) -> None:
    """Remove the half-written files of runs that have ended."""
    if not is_folder(folder):
        return
    with os.scandir(folder) as entries:
        parts = [
            each for each in entries if (found := _PART.fullmatch(each.name)) and _left(each, int(found[1]))
        ]
    for part in parts:
        with suppress(OSError):  # Windows keeps files that are open
            Path(part.path).unlink()


def _left(part: os.DirEntry[str], process: int) -> bool:
    """Whether the process that wrote a part has ended, or had the number of this one, which began later."""
    with suppress(OSError):
        return part.stat().st_mtime < _BEGUN if process == os.getpid() else not _runs(process)
    return False


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would be Ctrl-C
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write all files or, if that fails or is interrupted, leave the folder as it was.

    Raises:
        InputError: a file cannot be written.
    """
    parts = {path: _part(path) for path in contents}
    try:
        for path, content in contents.items():
            with _named(path):
                parts[path].write_bytes(content)
        for path, part in parts.items():
            with _named(path):
                part.replace(path)
    finally:
        for part in parts.values():
            with suppress(OSError):  # it is not there, or could not be
                part.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def _part(path: Path) -> Path:
    """Return the path at which a file is written first: beside it, with a short name."""
    digest = hashlib.sha256(path.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}.part")
