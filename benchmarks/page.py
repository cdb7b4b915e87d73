"""docs/benchmarks.md: every benchmark writes its own section and leaves the others as they are.

`python benchmarks/page.py FOLDER...` writes the sections that are made of lines of results, from the lines in
several folders: those of this machine, and those that another one has brought back.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`; nothing here is typed by hand. Ratios are medians over rounds in which the sides take
turns, the middle half of the rounds in brackets.
"""
ORDER = (
    "Forward pass",
    "Cost and visible part",
    "Peak memory",
    "LIME from end to end",
    "What explaining adds to a model that is almost free",
    "ROAD's linear imputation",
    "Start",
)
"""The sections of the page; one that is not among them is taken away."""


def here() -> str:
    return (
        f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"CPU {platform.machine()}, {torch.get_num_threads()} threads."
    )


def write_section(title: str, lines: Iterable[str], head: str | None = None) -> None:
    """Write the section `title` anew, under `head`: by default the date, the versions and the machine."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    sections = dict(re.findall(r"^## (.*?)\n+(.*?)\s*(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    sections[title] = "\n".join([here() if head is None else head, "", *lines])
    parts = [f"## {name}\n\n{sections[name].strip()}" for name in ORDER if name in sections]
    PAGE.write_text("\n\n".join([HEAD.rstrip(), *parts]) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name}, {title}")


def write_all(folders: Sequence[Path]) -> None:
    """Write the sections that are made of the lines in these folders."""
    from cost import cost_section, plot, points
    from explaining import lime_section
    from forward_tables import forward_section, memory_section
    from lines import latest
    from start import start_section

    forward = latest(folders, "forward")
    write_section("Forward pass", forward_section(forward), "")
    write_section("Peak memory", memory_section(forward), "")
    if drawn := points(forward):
        plot(drawn, PAGE.parent / "pictures" / "cost.png")
        write_section("Cost and visible part", cost_section(drawn), "")
    if lime := latest(folders, "lime"):
        write_section("LIME from end to end", lime_section(lime), "")
    if start := latest(folders, "start"):
        write_section("Start", start_section(start), "")


def main() -> None:
    from lines import FILE, FOLDER

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("folders", nargs="*", type=Path, default=[FOLDER])
    folders = options.parse_args().folders
    for folder in folders:
        if not (folder / FILE).exists():
            options.error(f"{folder} holds no {FILE}: measure first, or give the folder of --out")
    write_all(folders)


if __name__ == "__main__":
    main()
