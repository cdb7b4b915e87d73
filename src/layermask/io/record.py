"""The JSON record of a run: what is needed to repeat it, and its numbers."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from layermask.errors import printable
from layermask.io.atomic import read_bytes

PACKAGES = ("layermask", "torch", "torchvision", "timm", "transformers", "numpy", "pillow", "scikit-image")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    return hashlib.sha256(read_bytes(path, "file")).hexdigest()


def engine_of(*removals: Any) -> str | None:
    """Return which engine answered for the first removal that has one, "dense" or "sparse ...", else None."""
    plain = (getattr(each, "removal", each) for each in removals)  # of what wraps one
    return next(filter(None, (getattr(each, "engine_used", None) for each in plain)), None)


def sealed(record: Mapping[str, Any], picture: bytes) -> dict[str, Any]:
    """Return the record with checksums of itself and of the picture that belongs to it."""
    plain = {key: value for key, value in record.items() if key != "checksums"}
    text = json.dumps(plain, sort_keys=True).encode()
    sums = {"record": hashlib.sha256(text).hexdigest(), "picture": hashlib.sha256(picture).hexdigest()}
    return {**plain, "checksums": sums}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers depend on, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def to_json(record: Mapping[str, Any]) -> str:
    """Return JSON with one line per entry."""
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items())
    return printable("{\n" + ",\n".join(lines) + "\n}\n")  # JSON reads the escapes as the file names
