"""Build, check and time everything in one call, within a time limit, with and without a GPU.

For a machine that is lent for minutes, and may have torch and nothing else: the most important is measured
first, each result is kept as it comes, and the same command goes on where it stopped. Bring the folder --out
back, and `python benchmarks/page.py out/benchmarks FOLDER` writes docs/benchmarks.md from both.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("layermask") is None:  # not installed: from these sources
    sys.path.insert(0, str(ROOT / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))

import explaining  # noqa: E402
import forward  # noqa: E402
import start  # noqa: E402
from cells import GRID, Cell  # noqa: E402
from cells import cells as every  # noqa: E402
from lines import FOLDER, Lines  # noqa: E402
from timing import Deadline  # noqa: E402

from layermask import kernels  # noqa: E402

CHECKS = ("test_fill_kernels.py", "test_sparse*.py")
CHECK_SHARE = 0.25  # of the time limit, at most


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=60, help="for everything together")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--samples", type=int, default=1000, help="of LIME")
    options.add_argument("--device", choices=("cuda", "cpu"), help="one of them alone")
    options.add_argument("--only", default="*", help="wildcard on the cells of the forward pass")
    options.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    given = options.parse_args()
    deadline, lines = Deadline(given.minutes), Lines(given.out)
    try:
        build(lines)
        check(lines, 60 * CHECK_SHARE * given.minutes)
        time_all(given, lines, deadline)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
    print(f"results are in {lines.path}")


def build(lines: Lines) -> None:
    """Compile the kernels, or load what was compiled before."""
    begin = time.monotonic()
    there = kernels.library() is not None
    seconds = time.monotonic() - begin
    print(f"compiled kernels: {'ready' if there else 'none, torch operators do the work'}, {seconds:.1f} s")
    lines.add("build", "kernels", "cpu", kernels=there, seconds=round(seconds, 2))


def check(lines: Lines, seconds: float) -> None:
    """Run the tests that hold the kernels against the torch operators, where there is what they need."""
    files = [str(path) for pattern in CHECKS for path in sorted((ROOT / "tests").glob(pattern))]
    if not files or importlib.util.find_spec("pytest") is None:
        why = "pytest is not installed" if files else f"no {' or '.join(CHECKS)} in tests/"
        print(f"checks: left out, {why}")
        return
    # without tests/conftest.py, which needs more than torch
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-m", "not slow", "-W", "ignore"]
    command += ["-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=seconds, capture_output=True, text=True)
        passed, said = done.returncode == 0, _last_words(done.stdout)
    except subprocess.TimeoutExpired:
        passed, said = False, f"not finished in {seconds:.0f} s"
    print(f"checks: {said}")
    lines.add("check", "kernels", "cpu", passed=passed, said=said, files=[Path(f).name for f in files])


def _last_words(report: str) -> str:
    """The last line of pytest, and the first error if there is one."""
    lines = report.strip().splitlines() or [""]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return ": ".join([lines[-1], *errors[:1]])


def time_all(given: argparse.Namespace, lines: Lines, deadline: Deadline) -> None:
    """The eager rows of the goals on every device; then LIME and the compiled rows; then the rest."""
    here = [device for device in forward.devices() if given.device in (None, device)]
    if "cuda" not in here:
        print("no GPU at hand: its rows stay empty" if given.device != "cpu" else "the GPU is left out")

    def cells(device: str, wanted: Iterable[Cell]) -> None:
        left = set(forward.chosen(device, given.only, lines))
        forward.run([cell for cell in wanted if cell in left], lines, given.rounds, deadline)

    def lime(device: str) -> None:
        settings = [replace(setting, samples=given.samples) for setting in explaining.SETTINGS[device]]
        if not deadline.passed():
            explaining.run(settings, lines, min(3, given.rounds), deadline)

    goals = {device: list(GRID[device][0].cells(device)) for device in here}
    for device in here:
        cells(device, (cell for cell in goals[device] if cell.mode == "eager"))
    for device in here:
        lime(device)
        cells(device, goals[device])
    for device in here:
        cells(device, every(device))
    if not (deadline.passed() or lines.done("start", "cpu")):
        lines.add("start", "start", "cpu", **start.measure())


if __name__ == "__main__":
    main()
