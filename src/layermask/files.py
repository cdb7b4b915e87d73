"""Output files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from layermask.errors import InputError


def output_folder(path: str | Path) -> Path:
    """Return a folder that can be written in, made if it does not exist: found out before the long work."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot write in the folder {folder}: {error.strerror}") from error
    return folder


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write all files or, if that fails or is interrupted, leave what was there before."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    try:
        for path, content in contents.items():
            parts[path].write_bytes(content)
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {error.filename2 or error.filename}: {error.strerror}") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
