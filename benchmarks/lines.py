"""Results as lines of JSON, one per finished cell: a run that was cut short goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from machine import ROOT, engine, machine

FOLDER = ROOT / "out" / "benchmarks"
FILE = "lines.jsonl"

Line = dict[str, Any]


class Lines:
    """The results in a folder. What was measured with another engine or machine is kept, but is not done."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.path = folder / FILE

    def __iter__(self) -> Iterator[Line]:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # one that was cut short
                yield json.loads(line)

    def done(self, kind: str, device: str, *, stale: bool = False) -> set[str]:
        """The names of what needs no measuring again; with `stale`, also what another engine has done."""
        here = _identity(machine(device))
        lines = (x for x in self if x["kind"] == kind and not x["cut"] and _identity(x["machine"]) == here)
        return {x["name"] for x in lines if stale or x["engine"] == _engine(kind)}

    def add(self, kind: str, name: str, device: str, *, cut: bool = False, **found: Any) -> Line:
        line = {
            "kind": kind,
            "name": name,
            "machine": machine(device),
            "engine": _engine(kind),
            "date": time.strftime("%Y-%m-%d"),
            "load": round(os.getloadavg()[0], 2),
            "cut": cut,
            **found,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends():  # after a line that was cut short
                file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
        return line

    def _ends(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _engine(kind: str) -> str:
    return engine("explain") if kind == "lime" else engine()


def _identity(where: Line) -> tuple:
    return where["device"], where["name"], where["threads"], where["torch"]


def latest(folders: Iterable[Path], kind: str) -> list[Line]:
    """The last line of each name and machine, in the order in which they were first measured."""
    found: dict[tuple, Line] = {}
    for folder in folders:
        for line in Lines(folder):
            if line["kind"] == kind:
                found[(line["name"], *_identity(line["machine"]))] = line
    return list(found.values())
