"""A forward pass under layer masking, against the plain model and grey fill: time and peak memory.

All sides of a cell of the grid (cells.py) run in one process and take turns, with masks that are new in every
round. Each finished cell is a line in out/benchmarks/: a run that is interrupted, or stops at its limit, goes
on there. docs/benchmarks.md is written from all lines.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import memory
import torch
from cells import Cell, cells
from lines import Lines
from models import NotHere
from page import write_all
from timing import Deadline, Late, alternate, ratios
from torch import Tensor
from workload import Workload

CALLS = {"cpu": 1, "cuda": 3}  # of a side in a round, one after the other
WARMING = 10**6  # the seed of masks that are not timed
LAYERS = ("dense", "sparse", "auto")  # that have to agree


def measure(cell: Cell, rounds: int, deadline: Deadline) -> dict[str, Any]:
    """Time all sides of a cell; those that raise an error are left out, and the line says why.

    Raises:
        NotHere: the model's library is not installed.
        Late: the deadline came before there was a result.
    """
    work, calls = Workload(cell), CALLS[cell.device]
    with torch.inference_mode():
        warm = _warmed(work, deadline)
        times = alternate(
            warm.sides,
            lambda turn: [work.masks(1 + turn * calls + n) for n in range(calls)],
            rounds,
            deadline,
            cell.device,
        )
    taken = len(times.wall["plain"])
    peaks = warm.memory if cell.device == "cuda" else _memory_on_cpu(cell, warm, deadline)
    return {
        "cell": dataclasses.asdict(cell),
        "visible": float(work.masks(1).double().mean()),
        "cut": taken < rounds,
        "wall": _rounded(times.wall),
        "cpu": _rounded(times.cpu),
        "memory": peaks,
        "apart": warm.apart,
        "errors": warm.errors,
    }


@dataclasses.dataclass
class _Warmed:
    """Sides after their first calls, and what these have shown."""

    sides: dict[str, Callable[[Tensor], Tensor]] = dataclasses.field(default_factory=dict)
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    apart: dict[str, float] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    dense: Tensor | None = None  # its answer

    def compare(self, name: str, answer: Tensor) -> None:
        """Note how far an engine's answer is from the dense one's, in parts of the largest output."""
        if name == "dense":
            self.dense = answer.float()
        elif self.dense is not None:
            self.apart[name] = float((answer.float() - self.dense).abs().max() / self.dense.abs().max())


def _warmed(work: Workload, deadline: Deadline) -> _Warmed:
    if work.cell.mode == "compile":
        torch._dynamo.reset()
    warm = _Warmed()
    for name in work.names():
        deadline.check()
        try:
            _warm_up(name, work, warm)
        except Exception as error:
            if name == "plain":
                raise
            warm.errors[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            _clean(work.cell.device)
    return warm


def _warm_up(name: str, work: Workload, warm: _Warmed) -> None:
    """Call a side until all is compiled and chosen."""
    cuda = work.cell.device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    side, answer = work.side(name), torch.empty(0)
    for turn in range(3 if cuda or work.cell.mode == "compile" else 1):
        answer = side(work.masks(WARMING + turn))
    if cuda:
        warm.memory[name] = memory.on_cuda(lambda: side(work.masks(WARMING)), before)
    if name in LAYERS:
        warm.compare(name, answer)
    warm.sides[name] = side


def _memory_on_cpu(cell: Cell, warm: _Warmed, deadline: Deadline) -> dict[str, float]:
    """Half of scattered patches hidden, eager: a process per side takes its time."""
    if (cell.mask, cell.hidden, cell.mode) != ("patches", 0.5, "eager") or deadline.passed():
        return {}
    return {name: memory.on_cpu(cell, name) for name in warm.sides}


def _rounded(times: dict[str, list[float]]) -> dict[str, list[float]]:
    return {side: [float(f"{x:.5g}") for x in each] for side, each in times.items()}


# --- many cells ----------------------------------------------------------------------------------------


def run(wanted: Sequence[Cell], lines: Lines, rounds: int, deadline: Deadline) -> int:
    """Measure cells one by one, telling of each; return how many are now done."""
    done, start = 0, time.monotonic()
    for number, cell in enumerate(wanted, 1):
        if deadline.passed():
            break
        print(f"[{number}/{len(wanted)}] {cell.name} ", end="", flush=True)
        begin = time.monotonic()
        try:
            found = measure(cell, rounds, deadline)
        except NotHere as why:
            print(why)
            continue
        except Late:
            print("not finished in time")
            break
        except torch.OutOfMemoryError as error:
            print(f"left out: {str(error).splitlines()[0]}")
            continue
        finally:
            _clean(cell.device)
        lines.add("forward", cell.name, cell.device, **found)
        done += 1
        left = (time.monotonic() - start) / number * (len(wanted) - number) / 60
        print(f"{_brief(found)} in {time.monotonic() - begin:.0f} s, about {left:.0f} min left", flush=True)
    return done


def _brief(found: dict[str, Any]) -> str:
    wall = found["wall"]
    parts = [f"plain {1000 * statistics.median(wall['plain']):.0f} ms"]
    parts += [f"{side} {statistics.median(ratios(wall, side)):.2f}" for side in wall if side != "plain"]
    parts += [f"{side} failed ({why})" for side, why in found["errors"].items()]
    return ", ".join(parts)


def _clean(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def chosen(device: str, only: str, lines: Lines, *, again: bool = False, stale: bool = False) -> list[Cell]:
    """The cells of a device whose name fits a wildcard and that are not done yet."""
    done = set() if again else lines.done("forward", device, stale=stale)
    return [cell for cell in cells(device) if fnmatchcase(cell.name, only) and cell.name not in done]


def devices() -> list[str]:
    return ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--only", default="*", help='wildcard on a cell, as "cpu/resnet50/*" (see --list)')
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--limit-minutes", type=float, help="begin no round after this time")
    options.add_argument("--again", action="store_true", help="measure what is done once more")
    options.add_argument("--stale", action="store_true", help="what another engine has done is done")
    options.add_argument("--list", action="store_true", help="print the cells that are left, and stop")
    given = options.parse_args()
    lines, deadline = Lines(), Deadline(given.limit_minutes)
    wanted = [
        cell
        for device in devices()
        for cell in chosen(device, given.only, lines, again=given.again, stale=given.stale)
    ]
    if given.list:
        print("\n".join(cell.name for cell in wanted))
        return
    try:
        done = run(wanted, lines, given.rounds, deadline)
        print(f"{done} of {len(wanted)} cells measured")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here")
    write_all([lines.path.parent])


if __name__ == "__main__":
    main()
