"""A lock on a folder that dies with the process that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from layermask.errors import InputError
from layermask.io.atomic import read_bytes, reason, write_all


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder: another run in it is refused, also one on this machine under another user.

    The operating system keeps the lock with the open file, so a killed run leaves none behind; on network
    drives that do not pass locks on, two machines do not see each other.
    """
    path, owner = folder / ".lock", folder / ".owner"  # a file of its own: Windows locks what is in the first
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        write_all({owner: str(os.getpid()).encode()})
    except Timeout:
        raise InputError(
            f"another run{_named(owner)} is writing into {folder}: wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {reason(error)}") from error
    except InputError:
        lock.release()
        raise
    try:
        yield
    finally:
        lock.release()


def _named(owner: Path) -> str:
    try:
        number = read_bytes(owner, "file")
    except InputError:  # it is a pipe, say: the name is a help, no more
        return ""
    return f" (process {number.decode()})" if number.isdigit() else ""
