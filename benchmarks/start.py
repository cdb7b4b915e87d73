"""What importing the package adds to importing torch, and how soon the command answers."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lines import Lines
from markup import Line, by_machine, heading, where
from page import write_all

COMMANDS = {
    "torch": (sys.executable, "-c", "import torch"),
    "engine": (sys.executable, "-c", "import torch, layermask; layermask.LayerMasking"),
    "help": (str(Path(sys.executable).with_name("layermask")), "--help"),
}


def measure(rounds: int = 5) -> dict[str, Any]:
    """Seconds of each command that works here, the commands taking turns."""
    there = {name: command for name, command in COMMANDS.items() if _works(command)}
    wall: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(rounds):
        for name, command in there.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            wall[name].append(time.perf_counter() - start)
    return {"wall": wall}


def _works(command: Sequence[str]) -> bool:
    there = shutil.which(command[0]) is not None
    return there and subprocess.run(command, capture_output=True).returncode == 0


def start_section(lines: Iterable[Line]) -> list[str]:
    out = []
    for group in by_machine(lines):
        seconds = {name: statistics.median(times) for name, times in group[-1]["wall"].items()}
        text = f"Torch and the engine import in {seconds['engine']:.2f} s, "
        text += f"torch alone in {seconds['torch']:.2f} s."
        if "help" in seconds:
            text += f" `layermask --help` answers within {seconds['help']:.2f} s."
        out += [heading(group), "", where(group), "", text, ""]
    return out


if __name__ == "__main__":
    lines = Lines()
    lines.add("start", "start", "cpu", **measure())
    write_all([lines.path.parent])
