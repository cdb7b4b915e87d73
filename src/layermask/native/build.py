"""Building the C sources into one shared library, kept in the user's cache folder."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
_FLAGS = "-O3 -fopenmp -fPIC -std=gnu11 -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
_CHOICES = ("-march=native", "-mcpu=native", "-O3")  # the first that this compiler knows for its processor


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, built now if this machine has not yet; None where that cannot be or is not wanted."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if os.environ.get("LAYERMASK_NATIVE") == "0" or compiler is None or os.name != "posix":
        return None
    try:
        path = _cache() / f"kernels-{_fingerprint(compiler)}.so"
        if not path.exists():
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: the user has no home folder
        return None


def call(function: Any, *args: Tensor | float | ctypes._SimpleCData | ctypes.Array | None) -> Any:
    """Call a kernel: tensors become pointers (None: NULL), int becomes long, float becomes float.

    The number of threads, which every kernel takes last, is added. The types of the first call hold for all.
    """
    given = (*args, torch.get_num_threads())
    if function.argtypes is None:
        function.argtypes = [_kind(x) for x in given]
    return function(*[x.data_ptr() if isinstance(x, Tensor) else x for x in given])


def _kind(x: Any) -> Any:
    if isinstance(x, ctypes._SimpleCData):
        return type(x)
    return (
        ctypes.c_long if isinstance(x, int) else ctypes.c_float if isinstance(x, float) else ctypes.c_void_p
    )


def _sources() -> list[Path]:
    return sorted(_FOLDER.glob("*.c"))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layermask"


def _fingerprint(compiler: str) -> str:
    """What the library depends on: sources, flags, compiler, torch (whose OpenMP it uses), processor."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    kind = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))][:2]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    parts = [path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))]
    parts += [str((_FLAGS, _CHOICES, kind, platform.machine(), torch.__version__)).encode(), version]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _build(compiler: str, path: Path) -> None:
    """Compile into a folder of its own, then move in one step: two processes may build at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        if not any(_compiles(compiler, choice, built) for choice in _CHOICES):
            raise OSError(f"{compiler} could not build the kernels")
        built.replace(path)


def _compiles(compiler: str, choice: str, out: Path) -> bool:
    """Objects are linked without -fopenmp: its functions are then torch's own, and its threads too."""
    objects = []
    for source in _sources():
        objects.append(str(out.with_name(source.stem + ".o")))
        if not _runs(compiler, *_FLAGS, choice, "-c", str(source), "-o", objects[-1]):
            return False
    if not _runs(compiler, "-shared", *objects, "-o", str(out), "-lm"):
        return False
    try:
        ctypes.CDLL(str(out))
    except OSError:  # torch brings no OpenMP of this compiler's kind
        return _runs(compiler, "-shared", "-fopenmp", *objects, "-o", str(out), "-lm")
    return True


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=300).returncode == 0
