"""Finding the compiled kernels, and building them where they are not there yet."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from layermask.errors import BuildError, Untrusted
from layermask.kernels import build, cache
from layermask.kernels.compile import Kernels

PREBUILT = Path(__file__).parent / "prebuilt"
"""Where a package may bring a library, named as in the cache; it is trusted as the package is."""


@dataclass(frozen=True)
class Found:
    """The kernels or the reason why there are none, and what was built for them just now."""

    kernels: Kernels | None
    path: Path | None = None
    why: str = ""
    built: str = ""  # "COMPILER OPTION, SECONDS"

    @property
    def status(self) -> str:
        return f"none: {self.why}" if self.kernels is None else f"compiled, {self.path}"


def library() -> Kernels | None:
    """The compiled kernels, built now if need be; None where they cannot be built or are not wanted."""
    return found().kernels


def kernels_status() -> str:
    """Say whether compiled kernels are in use: "compiled, PATH", or "none: " and the reason."""
    return found().status


@functools.cache
def found() -> Found:
    """Look for the kernels once per process."""
    return find()


def find(again: bool = False, say: Callable[[str], None] | None = None) -> Found:
    """Look for the kernels: in the package, in the cache, or build them (`again`: in any case).

    `say` hears that they are being built; by default, one line on stderr says so.
    """
    if os.environ.get("LAYERMASK_NATIVE") == "0":
        return Found(None, why="LAYERMASK_NATIVE=0 is set")
    if os.name != "posix" or ctypes.sizeof(ctypes.c_long) != 8:
        return Found(None, why="they are built on 64-bit POSIX systems only")
    for path in () if again else cache.kept(PREBUILT, stem()):
        return Found(Kernels(ctypes.CDLL(str(path))), path)
    reasons = []
    for folder in cache.folders():
        try:
            cache.claim(folder)
            result = (None if again else _kept(folder)) or _build(folder, again, say or _announce)
        except BuildError as error:
            return _without(str(error))
        except Untrusted as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"{error.filename or folder}: {error.strerror or error}")
        else:
            if reasons:
                _warn(f"the compiled kernels are in {folder}, because {'; '.join(reasons)}")
            return result
    return _without("; ".join(reasons))


def stem() -> str:
    """The name of a library: what it depends on, which is sources, flags, torch (its OpenMP), processor."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    kind = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))][:2]
    parts = [path.read_bytes() for path in sorted(build.FOLDER.glob("*.[ch]"))]
    parts.append(str((build.FLAGS, build.CHOICES, kind, platform.machine(), torch.__version__)).encode())
    return f"kernels-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"


def _kept(folder: Path) -> Found | None:
    """What was built before, if it can be trusted and loaded."""
    for path in cache.kept(folder, stem()):
        try:
            return Found(_load(path), path)
        except Untrusted as error:
            _warn(f"{error}. It was not loaded; the compiled kernels are built again")
        except OSError as error:
            _warn(f"{path} cannot be loaded ({error}). The compiled kernels are built again")
    return None


def _load(path: Path) -> Kernels:
    file = cache.open_checked(path)
    opened = Path(f"/proc/self/fd/{file}")
    if not opened.exists():
        os.close(file)
        return Kernels(ctypes.CDLL(str(path)))
    return Kernels(ctypes.CDLL(str(opened)))  # the file stays open: the loader knows libraries by these names


def _build(folder: Path, again: bool, say: Callable[[str], None]) -> Found:
    with cache.alone(folder) as waited:
        if waited and not again and (meanwhile := _kept(folder)):
            return meanwhile
        if not build.compilers():
            raise BuildError(build.NO_COMPILER)
        say("compiling its kernels, once per machine; some seconds")
        begin = time.monotonic()
        with cache.workplace(folder) as place:
            how = build.build(place / "kernels.so")
            path = cache.keep(place / "kernels.so", folder, stem())
        return Found(_load(path), path, built=f"{how}, {time.monotonic() - begin:.1f} s")


def _announce(words: str) -> None:
    ways = "`layermask build` does it ahead of time, LAYERMASK_NATIVE=0 goes without"
    print(f"layermask: {words} ({ways})", file=sys.stderr, flush=True)


def _without(why: str) -> Found:
    if why != build.NO_COMPILER:
        _warn(f"there are no compiled kernels, so torch operators do the same work: {why}")
    return Found(None, why=why)


def _warn(words: str) -> None:
    warnings.warn(words, stacklevel=2)
