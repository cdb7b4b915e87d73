"""Break the package in one place after the other, and see who notices: `make mutate`.

Each mutant (mutants.py) is judged by the laws that `layermask check` runs, on tiny models (tiny.py), and if
none of them fails by the tests of its area, until one does. Each runs in a process forked from this one,
which has torch loaded and this package not. `--table` breaks the rules themselves instead, as they are
registered, before the tests that know their names.

Results are appended to out/mutants.jsonl as they come. What is there already is skipped while its file is
the same. What is known of those that nobody notices stands in survivors.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy  # noqa: F401  # loaded once, before the forks
import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from mutants import Mutant, find  # noqa: E402

OUT = ROOT / "out"
SECONDS = 600  # one that takes longer hangs, and that is noticed
RULES = "test_rules_by_hand test_twins test_twins_of_pools test_masks test_in_place test_rules_opinfo"
AREAS = {
    "rules/convolve.py": "test_twins test_rules_by_hand test_layer_masking test_masks test_rules_opinfo",
    "rules/pool.py": "test_twins_of_pools test_twins test_rules_by_hand test_layer_masking test_rules_opinfo",
    "rules/attend.py": "test_rules_by_hand test_mechanism test_tokens test_rules_opinfo",
    "rules/*": RULES,
    "packed/*": "test_packed test_packed_memory test_blocks",
    "fill.py": "test_twins test_fill_kernels test_mechanism test_compile",
    "window.py": "test_twins test_twins_of_pools test_masks test_mechanism test_layer_masking",
    "visibility.py": f"{RULES} test_mechanism test_layer_masking",
    "native/fill.*": "test_fill_kernels",
    "native/hide.c": "test_in_place test_fill_kernels test_twins_of_pools",
    "native/checksum.c": "test_checksum test_packed",
    "native/*": "test_packed test_blocks test_fill_kernels",
}
"""The tests of each source, the likeliest first; the first pattern that fits holds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="folder that holds the package")
    parser.add_argument("--only", default="*", help='wildcard on a mutant, as "rules/pool.py:*"')
    parser.add_argument("--limit", type=int, help="judge at most this many now")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin none later than this")
    parser.add_argument("--laws-only", action="store_true", help="without the tests")
    parser.add_argument("--table", action="store_true", help="break the registered rules")
    parser.add_argument("--results", type=Path, default=OUT / "mutants.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.results.parent.mkdir(exist_ok=True)
    copy = copied(options.source, options.results.with_suffix(""))
    if options.table:
        judge_table(copy, options.results)
    else:
        judge(copy, options)
    print(report(options.results))


def copied(source: Path, copy: Path) -> Path:
    """Return a copy of the package to be broken."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source / "layermask", copy / "layermask", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "broken.py", copy / "layermask" / "_broken.py")
    return copy


def judge(copy: Path, options: argparse.Namespace) -> None:
    known = {line["name"]: line for line in stored(options.results)}
    wanted = [mutant for mutant in find(copy / "layermask") if fnmatchcase(mutant.name, options.only)]
    wanted = [m for m in wanted if not done(known.get(m.name), m, options.laws_only)][: options.limit]
    sound = verdict_of(copy, None, options.laws_only or not wanted)
    if sound["by"] != "survived":
        raise SystemExit(f"unbroken, the package fails already: {sound}")
    start = time.monotonic()
    for number, mutant in enumerate(wanted):
        if time.monotonic() - start > 60 * options.minutes:
            break
        line = {"name": mutant.name, "key": mutant.key, **judged(copy, mutant, options.laws_only)}
        append(options.results, line)
        print(
            f"{number + 1}/{len(wanted)} {line['seconds']:.0f} s {line['by']}  <- {mutant.name}", flush=True
        )


def done(line: dict[str, Any] | None, mutant: Mutant, laws_only: bool) -> bool:
    """Whether a result holds: of the same file, and of the tests too if they are wanted."""
    if line is None or line["key"] != mutant.key:
        return False
    return laws_only or line["by"] != "survived" or line["tests"]


def judged(copy: Path, mutant: Mutant, laws_only: bool) -> dict[str, Any]:
    path = copy / "layermask" / mutant.file
    whole = path.read_text()
    path.write_text(mutant.applied(whole))
    try:
        return verdict_of(copy, mutant.file, laws_only)
    finally:
        path.write_text(whole)


# --- in a process of its own ---------------------------------------------------------------------------


def verdict_of(copy: Path, file: str | None, laws_only: bool) -> dict[str, Any]:
    """Return who noticed, `by`, in how many `seconds`, and whether the `tests` were asked too."""
    start = time.monotonic()
    by = forked(copy, lambda: noticed_by(file, laws_only))
    return {"by": by, "tests": not laws_only, "seconds": round(time.monotonic() - start, 1)}


def forked(copy: Path, work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a process that finds the package in `copy`."""
    answer = copy / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            _become(copy)
            answer.write_text(json.dumps(work()))
        os._exit(0)
    if not _waited(child):
        return "no end"
    return json.loads(answer.read_text()) if answer.exists() else "crash"


def _become(copy: Path) -> None:
    os.setsid()
    log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["XDG_CACHE_HOME"] = str(copy / "cache")  # kernels are built of the sources in `copy`
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    os.chdir(ROOT)


def _waited(child: int) -> bool:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)  # the session that it began, and nobody else's
    os.waitpid(child, 0)
    return False


def noticed_by(file: str | None, laws_only: bool) -> str:
    try:
        found = failing_law(file)
    except Exception as error:  # of the import, for one
        return f"error: {type(error).__name__}"
    if found or laws_only:
        return found or "survived"
    return failing_test(tests_of(file)) or "survived"


def failing_law(file: str | None) -> str:
    from tiny import MODELS, SIDE, built

    from layermask.check import check
    from layermask.check.samples import sample_images
    from layermask.native import library

    if file and file.startswith("native/") and not file.endswith(".py") and library() is None:
        return "invalid: does not compile"
    images = sample_images(4, (3, SIDE, SIDE))
    for name in MODELS:
        report = check(built(name), images)
        if report.missing or report.error:
            return f"check of {name}: {report.error or 'a rule is missing'}"
        for law in report.laws:
            if not law.passed:
                return f"law {law.law} of {name}: {law.detail}"
    return ""


def tests_of(file: str | None) -> list[str]:
    names = AREAS[next(area for area in AREAS if fnmatchcase(file, area))] if file else RULES
    return [str(path) for name in names.split() if (path := ROOT / "tests" / f"{name}.py").exists()]


class First:
    """Keeps the first test that fails."""

    found = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid


def failing_test(files: list[str]) -> str:
    first = First()
    status = pytest.main(["-x", "-q", *PLAIN, *files], plugins=[first])
    return "" if status == 0 else f"test {first.found or 'that is not collected'}"


PLAIN = ["-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow", "--rootdir", str(ROOT)]

# --- the table of rules ------------------------------------------------------------------------------------


def judge_table(copy: Path, results: Path) -> None:
    """Break every registered rule, all spellings of a function at a time, within one session of tests."""
    files = tests_of("rules/table")
    forked(copy, lambda: pytest.main(["-q", *PLAIN, *files], plugins=[EachRule(results)]))


class EachRule:
    """Runs, for each broken rule, the tests that name its function, until one fails."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def pytest_runtestloop(self, session: Any) -> bool:
        from layermask import _broken  # type: ignore[attr-defined]  # copied there
        from layermask.masked import RULES as TABLE

        stems: dict[str, list[Callable]] = {}
        for function in TABLE:
            stems.setdefault(function.__name__.strip("_"), []).append(function)
        for stem, functions in stems.items():
            items = [item for item in session.items if stem in words(item.nodeid)]
            for how in ("output", "mask"):
                with replaced(TABLE, functions, getattr(_broken, how)):
                    by = next(filter(None, map(failure, items)), "survived")
                append(
                    self.results,
                    {"name": f"table:{stem}: {how}", "key": "", "by": by, "tests": True, "seconds": 0},
                )
        return True


def words(nodeid: str) -> set[str]:
    """The names in a test's name, without underscores around them."""
    for sign in "[]-.:/ ,()":
        nodeid = nodeid.replace(sign, " ")
    return {word.strip("_") for word in nodeid.split()}


@contextlib.contextmanager
def replaced(table: Any, functions: list[Callable], change: Callable) -> Iterator[None]:
    before = {function: table[function] for function in functions}
    table.update({function: changed(body, change) for function, body in before.items()})
    try:
        yield
    finally:
        table.update(before)


def changed(body: Callable, change: Callable) -> Callable:
    def broken(*args: Any, **kwargs: Any) -> Any:
        return change(body(*args, **kwargs))

    broken.__annotations__ = getattr(getattr(body, "func", body), "__annotations__", {})
    return broken


def failure(item: Any) -> str:
    from _pytest.runner import runtestprotocol

    item._initrequest()
    reports = runtestprotocol(item, log=False, nextitem=None)
    return f"test {item.nodeid}" if any(report.failed for report in reports) else ""


# --- results ---------------------------------------------------------------------------------------------


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def stored(path: Path) -> list[dict[str, Any]]:
    """The latest result of every mutant."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({line["name"]: line for line in map(json.loads, lines)}.values())


def report(path: Path) -> str:
    """Say how many were noticed, by whom, and which by nobody."""
    lines = [line for line in stored(path) if not line["by"].startswith("invalid")]
    groups = Counter(line["by"].split()[0].rstrip(":") for line in lines)
    left = [line["name"] for line in lines if line["by"] == "survived"]
    shares = ", ".join(f"{count} {group}" for group, count in groups.most_common())
    noticed = 100 * (len(lines) - len(left)) / max(1, len(lines))
    return "\n".join([*sorted(left), f"{len(lines)} mutants, {noticed:.1f} % noticed: {shares}"])


if __name__ == "__main__":
    main()
