"""docs/benchmarks.md: every benchmark writes its own section and leaves the others as they are.

`python benchmarks/page.py FOLDER...` writes the sections that are made of lines of results, from the lines in
several folders: those of this machine, and those that another one has brought back. What the page says of
machines that are in none of them stays.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from markup import parts, title

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


def write_section(name: str, lines: Iterable[str], head: str | None = None) -> None:
    """Write the section `name` anew, under `head`: by default the date, the versions and the machine."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    sections = dict(parts(text, "## "))
    new = "\n".join([here() if head is None else head, "", *lines])
    sections[name] = new if head is None else with_others(new, sections.get(name, ""))
    found = [f"## {each}\n\n{sections[each].strip()}" for each in ORDER if each in sections]
    PAGE.write_text("\n\n".join([HEAD.rstrip(), *found]) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name}, {name}")


def with_others(new: str, old: str) -> str:
    """A section, and what its older text has of other machines, in order of their headings."""
    about, ours = new.partition("### ")[0], parts(new, "### ")
    others = [part for part in parts(old, "### ") if part[0] not in dict(ours)]
    every = sorted(others + ours, key=lambda part: part[0])
    if any(name.startswith(f"{title('cuda')}: ") for name, _ in every):
        every = [part for part in every if part[0] != title("cuda")]  # no longer without a GPU
    return "\n\n".join([about.strip(), *(f"### {name}\n\n{text.strip()}" for name, text in every)])


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
