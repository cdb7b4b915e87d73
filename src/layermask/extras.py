"""The optional packages: which ones an extra of layermask brings, and how to install those that are missing.

Commands name the packages themselves, so that they work whether or not layermask is on a package index.
"""

from __future__ import annotations

import re
from importlib import metadata

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<version>[^;]*);.*extra == ['\"](?P<extra>[^'\"]+)")


def extras() -> list[str]:
    """Return the names of the extras, in order."""
    return sorted({entry["extra"] for entry in _entries()})


def needed(extra: str) -> dict[str, str]:
    """Return the packages of an extra and the versions asked for, as in {"pyarrow": ">=15"}."""
    return {entry["name"]: entry["version"].strip() for entry in _entries() if entry["extra"] == extra}


def missing(extra: str) -> dict[str, str]:
    """Return those of them that are not installed."""
    return {name: version for name, version in needed(extra).items() if not _version(name)}


def install(extra: str, package: str = "") -> str:
    """Return the command that installs what is missing of an extra, or else all of it, or a package."""
    wanted = missing(extra) or needed(extra) or {package: ""}
    return " ".join(["pip install", *(f'"{name}{version}"' for name, version in wanted.items())])


def _entries() -> list[re.Match[str]]:
    """Return the lines of the metadata that name an extra; none where layermask is run without installing."""
    try:
        lines = metadata.requires("layermask") or []
    except metadata.PackageNotFoundError:
        lines = []
    return [found for line in lines if (found := _REQUIREMENT.match(line))]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
