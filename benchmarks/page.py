"""docs/benchmarks.md: every benchmark writes its own section and leaves the others as they are."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`; nothing here is typed by hand. Ratios are medians over rounds in which the sides
alternate, the middle half of the rounds in brackets. No GPU was measured.
"""


EXACT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""With these glibc gives freed memory back at once: a peak is then what was in use, without its caches."""


def peak_memory(setup: str, call: str, runs: int = 5) -> float:
    """Return the peak of memory during `call` above that before it, in MiB: the median of processes."""
    code = f"""
import torch, warnings
from pathlib import Path
warnings.simplefilter("ignore")

def memory(line):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(line))

{setup}
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
before = memory("VmRSS")
{call}
print(memory("VmHWM") - before)
"""
    environment = {**os.environ, **EXACT_MEMORY, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(runs)
    ]
    return statistics.median(map(int, found)) / 1024


def machine() -> str:
    return (
        f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"CPU {platform.machine()}, {torch.get_num_threads()} threads."
    )


def write_section(title: str, lines: Iterable[str]) -> None:
    """Replace the section `title`, or add it at the end."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    sections = dict(re.findall(r"^## (.*?)\n+(.*?)\s*(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    sections[title] = "\n".join([machine(), "", *lines])
    parts = [HEAD.rstrip(), *(f"## {name}\n\n{body.strip()}" for name, body in sections.items())]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name}, {title}")
