"""Puts functions that check the shapes in their annotations in the place of all that name any.

`pytest -p watching tests/test_targets.py` runs other tests so; `test_shapes.py` does it of itself.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

import layermask
from layermask.core.rule_table import BUILT_IN, OPERATORS, RULES
from layermask.sparse.rules.table import SPARSE_FORMS

jaxtyping = pytest.importorskip("jaxtyping", reason="what checks shapes is not installed: jaxtyping")
beartype = pytest.importorskip("beartype", reason="what checks shapes is not installed: beartype")

SHAPE = re.compile(r"\b(Annotated|Bool|Complex|Float|Int|Shaped|UInt)\d*\[(Tensor|Masked|Any|np)\b")
CHECK = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int may be a float
TABLES: tuple[dict, ...] = (RULES, BUILT_IN, OPERATORS, SPARSE_FORMS)


@functools.cache
def naming() -> list[ModuleType]:
    """The modules that name shapes."""
    root = Path(layermask.__file__).parent
    paths = [path for path in sorted(root.rglob("*.py")) if "jaxtyping" in path.read_text(encoding="utf-8")]
    places = (path.relative_to(root.parent).with_suffix("") for path in paths)
    return [importlib.import_module(".".join(place.parts)) for place in places]


def for_types(module: ModuleType) -> dict[str, Any]:
    """What a module imports for type checkers alone."""
    names: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports: list[ast.stmt] = [n for n in node.body if isinstance(n, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), module.__name__, "exec"), names)
    return {name: found for name, found in names.items() if name != "__builtins__"}


def functions(found: Any) -> Iterator[Callable]:
    """The functions of the package among `found`, which is an entry of a table or anything else."""
    for each in found if isinstance(found, tuple) else (found,):
        if inspect.isfunction(each) and (each.__module__ or "").startswith("layermask."):
            yield each


def held(waiting: list[Callable]) -> Iterator[tuple[Any, str, Callable]]:
    """The functions that these were made of, as a rule that is brought onto a grid, and where they are."""
    seen: set[int] = set()
    while waiting:
        for cell in waiting.pop().__closure__ or ():
            if id(cell) not in seen:
                seen.add(id(cell))
                for inner in functions(cell.cell_contents):
                    waiting.append(inner)
                    yield cell, "cell_contents", inner


def attributes() -> Iterator[tuple[Any, str, Callable]]:
    """The functions of all modules and classes, wherever they are imported."""
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("layermask.")]:
        classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        for holder in (module, *classes):
            for name, found in list(vars(holder).items()):
                yield from ((holder, name, function) for function in functions(found))


def shaped(function: Callable) -> bool:
    """Whether it has a shape in its annotations itself, and no function that it stands for."""
    own = not hasattr(function, "__wrapped__")
    return own and any(SHAPE.search(str(hint)) for hint in function.__annotations__.values())


def watch(patch: pytest.MonkeyPatch) -> dict[Callable, Callable]:
    """Put functions that check their shapes in the place of all that name any; return what they stand for."""
    for module in naming():
        for name, found in for_types(module).items():
            patch.setattr(module, name, found, raising=False)

    @functools.cache
    def checked(function: Callable) -> Callable:
        get_type_hints(function)  # names that are not there would be found in the middle of a law
        return jaxtyping.jaxtyped(function, typechecker=CHECK)

    def swapped(found: Any) -> Any:
        if isinstance(found, tuple):
            return tuple(map(swapped, found))
        return checked(found) if any(map(shaped, functions(found))) else found

    places = list(attributes())
    known = [each for *_, each in places]
    known += [each for table in TABLES for entry in table.values() for each in functions(entry)]
    places += held(known.copy())
    for holder, name, function in places:
        if shaped(function):
            patch.setattr(holder, name, checked(function))
    for table in TABLES:
        for key, entry in list(table.items()):
            patch.setitem(table, key, swapped(entry))
    every = {*known, *(function for *_, function in places)}
    return {checked(function): function for function in every if shaped(function)}


@pytest.fixture(scope="module", autouse=True)
def watched() -> Iterator[set[str]]:
    """Have the shapes checked in every function that names any; give the names of those functions."""
    with pytest.MonkeyPatch.context() as patch:
        originals = watch(patch)
        yield {function.__qualname__ for function in originals.values()}
    for holder, name, function in attributes():  # of modules that were imported meanwhile
        if function in originals:
            setattr(holder, name, originals[function])
