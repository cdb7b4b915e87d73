"""Peak memory: of a piece of code in a process of its own, and of the sides of a cell."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from cells import Cell

EXACT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""With these glibc gives freed memory back at once: a peak is then what was in use, without its caches."""


def peak_memory(setup: str, call: str, runs: int = 5, warm: str = "") -> float:
    """Return the peak of memory during `call` above that before it, in MiB: the median of processes.

    What `warm` has taken and not given back, folded weights say, counts as well.
    """
    code = f"""
import torch, warnings
from pathlib import Path
warnings.simplefilter("ignore")

def memory(line):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(line))

{setup}
without = memory("RssAnon")
{warm}
kept = memory("RssAnon") - without if {bool(warm)} else 0
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
before = memory("VmRSS")
{call}
print(kept + memory("VmHWM") - before)
"""
    environment = {**os.environ, **EXACT_MEMORY, "PYTHONPATH": _path()}
    command = [sys.executable, "-c", code]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(runs)
    ]
    return statistics.median(map(int, found)) / 1024


def _path() -> str:
    return os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


def on_cpu(cell: Cell, side: str, runs: int = 1) -> float:
    """Return what a side takes above model and images, in MiB: what it keeps, and its peak."""
    setup = f"""
import os
from cells import Cell
from workload import Workload
torch.set_grad_enabled(False)
torch.set_num_threads({torch.get_num_threads()})
work = Workload(Cell(**{dataclasses.asdict(cell)}))
visible = work.masks(0)
"""
    warm = f"side = work.side({side!r}); side(visible[:1])"
    return peak_memory(setup, "side(visible)", runs, warm)


def on_cuda(call: Callable[[], object], before: int) -> float:
    """Return the peak of allocated memory during a call above `before` bytes, in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
