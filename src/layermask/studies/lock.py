"""A lock on a folder that dies with the process that holds it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from layermask.errors import InputError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder: another run in it is refused, also one on this machine under another user.

    The operating system keeps the lock with the open file, so a killed run leaves none behind; on network
    drives that do not pass locks on, two machines do not see each other.
    """
    path = folder / ".lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        try:
            _take(file)
        except OSError:
            owner = _owner(file)
            raise InputError(
                f"another run{owner} is writing into {folder}: wait for it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _owner(file: IO[str]) -> str:
    file.seek(0)
    number = file.read(20).strip()
    return f" (process {number})" if number.isdecimal() else ""


def _take(file: IO[str]) -> None:
    if os.name == "nt":  # the first byte, as there is no lock on whole files
        windows: Any = importlib.import_module("msvcrt")
        file.seek(0)
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    else:
        posix: Any = importlib.import_module("fcntl")
        posix.flock(file, posix.LOCK_EX | posix.LOCK_NB)
