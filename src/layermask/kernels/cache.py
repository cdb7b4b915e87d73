"""Where compiled kernels are kept, and which files there may be loaded: code that another user could have
written is never run.

A library's name holds the hash of its content. It is loaded if it and its folder belong to the user, nobody
else may write to them, and the content is what the name says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from layermask.errors import Untrusted

WAIT = 330.0
"""Seconds to wait for another process that builds: a little more than a build may take."""
_LEFT_OVER = 3600  # seconds after which the folder of a killed build is removed


def folders() -> Iterator[Path]:
    """The user's cache folder if there is one, then one of his own among the temporary files."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # there is no home folder
        home = named if named.is_absolute() else Path.home() / ".cache"  # the XDG rules: ignore others
        if home.is_absolute():
            yield home / "layermask"
    yield Path(tempfile.gettempdir()) / f"layermask-{os.getuid()}"


def claim(folder: Path) -> None:
    """Make the folder if need be, and see that it belongs to the user alone.

    Raises:
        Untrusted: it does not.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for found in (folder.lstat(), folder.stat()):  # a link, and what it leads to
        if found.st_uid != os.getuid():
            raise Untrusted(f"{folder} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise Untrusted(f"others may write into {folder} (chmod 700 would mend it)")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def kept(folder: Path, stem: str) -> Iterator[Path]:
    """The libraries of this name, whatever their content."""
    return iter(sorted(folder.glob(f"{stem}-*.so")))


def open_checked(path: Path) -> int:
    """Open a library that may be loaded, and return its file descriptor: what is loaded is what was checked.

    Raises:
        Untrusted: it may not be loaded.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Untrusted(f"{path} cannot be opened: {error.strerror}") from error
    try:
        _check(path, file)
    except BaseException:
        os.close(file)
        raise
    return file


def _check(path: Path, file: int) -> None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise Untrusted(f"{path} is no file")
    if found.st_uid != os.getuid():
        raise Untrusted(f"{path} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise Untrusted(f"others may write to {path}")
    with os.fdopen(os.dup(file), "rb") as stream:
        if path.stem.rpartition("-")[2] != hashlib.sha256(stream.read()).hexdigest():
            raise Untrusted(f"{path} is damaged")


def keep(built: Path, folder: Path, stem: str) -> Path:
    """Move a library into its place in one step, under the name that tells its content."""
    path = folder / f"{stem}-{hashlib.sha256(built.read_bytes()).hexdigest()}.so"
    for old in kept(folder, stem):
        old.unlink()
    built.chmod(0o600)
    built.replace(path)
    return path


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A folder to build in, inside the cache; what killed builds have left there is removed."""
    for old in folder.glob("building-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _LEFT_OVER:
                for each in [*old.iterdir()]:
                    each.unlink()
                old.rmdir()
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as made:
        yield Path(made)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Wait until no other process builds here, `WAIT` seconds at most; True if there was one."""
    import fcntl

    deadline, waited = time.monotonic() + WAIT, False
    with (folder / "lock").open("w") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = True
                time.sleep(0.1)
            except OSError:  # a file system without locks: two may build at once, which does no harm
                break
        yield waited
