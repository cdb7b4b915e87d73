"""Names of a package that are imported when first used, so that importing the package costs nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def attach(package: str, path: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package at `path`.

    Its stub beside it (`__init__.pyi`) lists the names as imports, which type checkers read as well.
    """
    homes = _homes(Path(path).with_suffix(".pyi"))

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if _is_module(homes[name], name):  # and not what it has of the same name
            return import_module(f"{homes[name]}.{name}")
        return getattr(import_module(homes[name]), name)

    return get, lambda: sorted(homes), sorted(homes)


@cache
def _is_module(home: str, name: str) -> bool:
    return hasattr(import_module(home), "__path__") and find_spec(f"{home}.{name}") is not None


def room_of(name: str, package: str, path: str) -> str:
    """Return the room below a package whose stub lists a name, or ""."""
    stubs = sorted(Path(path).parent.glob("*/__init__.pyi"))
    return next((f"{package}.{stub.parent.name}" for stub in stubs if name in _homes(stub)), "")


def _homes(stub: Path) -> dict[str, str]:
    found = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update({alias.asname or alias.name: node.module for alias in node.names})
    return found
