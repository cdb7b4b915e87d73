"""The public names: listed once, in stubs, and imported when first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layermask

ROOT = Path(layermask.__file__).parent
STUBS = sorted(ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.parent.name)
def test_every_name_in_a_stub_is_there(stub: Path) -> None:
    package = ".".join(["layermask", *stub.parent.relative_to(ROOT).parts])
    names = [
        a.asname for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    program = f"import {package} as room; [getattr(room, name) for name in {names}]"
    program += f"; assert set({names}) <= set(dir(room))"
    subprocess.run([sys.executable, "-c", program], check=True)


ROOMS = [
    *sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} & set(layermask.__all__)),
    "errors",
]


@pytest.mark.parametrize("room", [*ROOMS, "fills"])
def test_a_room_is_a_module_also_if_it_is_asked_for_first(room: str) -> None:
    """It may hold a function of its own name, as `layermask.removal.removal`."""
    program = f"import layermask, types; assert type(layermask.{room}) is types.ModuleType"
    place = "layermask.removal.fills" if room == "fills" else f"layermask.{room}"
    subprocess.run(
        [sys.executable, "-c", f"{program}; assert layermask.{room}.__name__ == '{place}'"], check=True
    )


def test_few_names_are_at_the_top() -> None:
    assert len(set(layermask.__all__) - set(ROOMS)) <= 25


def test_importing_the_package_costs_nothing() -> None:
    program = "import sys, layermask; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


MOVED = {
    "Greyout": layermask.removal.Greyout,
    "LeaveOneOut": layermask.explain.FeatureAblation,
    "curve": layermask.metrics.curve,
    "load_labels": layermask.data.load_labels,
    "Loaded": layermask.zoo.Loaded,
    "ImageError": layermask.errors.ImageError,
    "RULES": layermask.core.RULES,
}


@pytest.mark.parametrize("name", MOVED)
def test_a_name_that_is_elsewhere_is_pointed_at(name: str) -> None:
    assert name not in layermask.__all__ and name not in dir(layermask)
    found = MOVED[name]
    new = getattr(found, "__name__", name)
    with pytest.warns(FutureWarning, match=rf"^layermask\.{name} is layermask\.\w+\.{new} now$") as warned:
        assert getattr(layermask, name) is found
    assert warned[0].filename == __file__


def test_a_name_that_is_nowhere_is_refused() -> None:
    for name in ("Grayout", "torch", "_lazy_name", "load_model"):
        with pytest.raises(AttributeError, match=f"^module 'layermask' has no attribute '{name}'$"):
            getattr(layermask, name)


def test_the_table_comes_with_its_rules() -> None:
    for first in ("layermask.Masked", "layermask.rule", "layermask.core.RULES"):
        program = f"import layermask; {first}; from layermask.core import RULES; assert len(RULES) > 500"
        subprocess.run([sys.executable, "-c", program], check=True)
