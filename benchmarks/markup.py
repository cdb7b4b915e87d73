"""Tables of docs/benchmarks.md, and what they hold for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Line = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def by_machine(lines: Iterable[Line]) -> list[list[Line]]:
    """The lines of each machine, GPUs last."""
    found: dict[tuple, list[Line]] = {}
    for line in lines:
        place = line["machine"]
        found.setdefault((place["device"], place["name"], place["threads"], place["torch"]), []).append(line)
    return [found[key] for key in sorted(found)]


def title(device: str) -> str:
    return {"cpu": "CPU", "cuda": "GPU"}[device]


def heading(lines: Sequence[Line]) -> str:
    """Above what lines of one machine say."""
    machine = lines[0]["machine"]
    return f"### {title(machine['device'])}: {machine['name']}"


def parts(text: str, mark: str) -> list[tuple[str, str]]:
    """The headings that begin with `mark`, and what stands under each."""
    return re.findall(rf"^{mark}(.*?)\n+(.*?)\s*(?=^{mark}|\Z)", text, re.DOTALL | re.MULTILINE)


def where(lines: Sequence[Line]) -> str:
    """The machine, the versions, the commits, the dates and the rounds of lines of one machine."""
    machine = lines[0]["machine"]
    words = [str(machine["name"]), _count(machine["threads"], "thread"), f"torch {machine['torch']}"]
    words += [f"CUDA {machine['cuda']}"] if "cuda" in machine else []
    words += [f"Python {machine['python']}"]
    commits = list(dict.fromkeys(line["machine"]["commit"] for line in lines if line["machine"]["commit"]))
    words += [f"commit {' and '.join(commits)}"] if commits else []
    words += [_range(sorted({line["date"] for line in lines}))]
    rounds = sorted({len(next(iter(line["wall"].values()))) for line in lines})
    words += [_count(_range(rounds), "round")]
    return ", ".join(words) + "."


def _count(number: Any, word: str) -> str:
    return f"{number} {word}" if str(number) == "1" else f"{number} {word}s"


def _range(values: Sequence[Any]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
