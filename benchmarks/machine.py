"""What a result holds for: the machine, the versions, the commit, and the engine's source text."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from pathlib import Path

import torch

import layermask

ROOT = Path(__file__).resolve().parents[1]
# What the time of a forward pass does not depend on.
_AROUND = set("adapters assets check cli data explain metrics render studies zoo".split())


@functools.cache
def engine(*also: str) -> str:
    """A digest of the sources that a forward pass runs through, and of the packages `also`."""
    folder = Path(layermask.__file__).parent
    files = [path for kind in ("*.py", "*.c", "*.h") for path in folder.rglob(kind)]
    skipped = _AROUND - set(also)
    ours = sorted(p for p in files if p.relative_to(folder).parts[0] not in skipped)
    return hashlib.sha256(b"".join(path.read_bytes() for path in ours)).hexdigest()[:10]


@functools.cache
def machine(device: str) -> dict[str, str | int]:
    """The device and what it runs with; two lines of JSON with the same of these may be compared."""
    where: dict[str, str | int] = {
        "device": device,
        "name": _processor() + _malloc(),
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        where |= {"name": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return {**where, "torch": torch.__version__, "python": platform.python_version(), "commit": _commit()}


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _malloc() -> str:
    """Said where it is not as it comes: a system that takes large blocks back has to clear them again."""
    kept = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} <= os.environ.keys()
    return ", malloc set to keep large blocks" if kept else ""


def _commit() -> str:
    """The commit, marked where the sources differ from it; nothing outside a git checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
