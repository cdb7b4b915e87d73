"""The rooms of the package: each imports rooms on lower floors only, and no circle of modules exists."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import layermask

ROOT = Path(layermask.__file__).parent
FLOORS = """
    extras
    errors _private_torch _lazy
    arguments io
    data
    core kernels zoo segment
    padding
    rules
    sparse
    removal
    explain
    metrics
    render check deploy adapters
    studies testing
    cli
    __init__ __main__
""".strip().splitlines()
"""From the ground up. `__init__` has names only, which are imported when first used."""
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor.split()}


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def imports(module: str, path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, lazily or for types too."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports within the package are absolute"
            base = (node.module or "").removeprefix("layermask").lstrip(".")
            if (node.module or "").split(".")[0] == "layermask":
                for alias in node.names:
                    whole = f"{base}.{alias.name}".lstrip(".")
                    yield whole if whole in known or f"{whole}.__init__" in known else base or "__init__"
        elif isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("layermask.") for a in node.names if a.name.startswith("layermask.")
            )


def test_every_room_imports_lower_floors_only() -> None:
    wrong = []
    for module, path in modules().items():
        room = module.split(".")[0]
        for other in imports(module, path):
            there = other.split(".")[0]
            if there != room and FLOOR[there] >= FLOOR[room]:
                wrong.append(f"{module} imports {other}")
    assert wrong == [], chr(10).join(wrong)


def test_no_circle_of_modules_exists() -> None:
    known = modules()
    graph = {
        module: {o if o in known else f"{o}.__init__" for o in imports(module, path)} - {module}
        for module, path in known.items()
    }
    while leaves := [module for module, others in graph.items() if not others & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert graph == {}


def test_every_room_has_a_floor() -> None:
    assert {module.split(".")[0] for module in modules()} == set(FLOOR)
