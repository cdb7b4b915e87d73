"""Write the tables of README.md, below its line, from the results that are kept."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from setting import RESULTS

from layermask.io.atomic import write_all

PAGE = Path(__file__).with_name("README.md")
LINE = "\n---\n"
TABLES = ("table1", "table2", "table3", "figure4", "figure6", "linearity", "operator_search", "matched")
PICTURES = ("figure2", "figure3", "figure8")


def sections() -> list[str]:
    """Return a section for every experiment that has results; a module has `section()`, perhaps `CAVEAT`."""
    tables = [_table(import_module(name)) for name in TABLES if any(RESULTS.glob(f"{name}*.parquet"))]
    pictures = [
        f"{_heading(import_module(name))}\n\n![{name}](results/{name}.png)"
        for name in PICTURES
        if (RESULTS / f"{name}.png").exists()
    ]
    return tables + pictures


def _table(module: ModuleType) -> str:
    caveat = getattr(module, "CAVEAT", "")
    lines = [_heading(module), "", *module.section(), *(["", f"Caveat: {caveat}"] if caveat else [])]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip()


def _heading(module: ModuleType) -> str:
    title = (module.__doc__ or "").splitlines()[0].rstrip(".")
    return f"## {title}\n\n`python experiments/{module.__name__}.py`"


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").split(LINE)[0]
    write_all({PAGE: ("\n\n".join([head + LINE.rstrip(), *sections()]) + "\n").encode()})
