"""Break the package in one place after the other, and see who notices: `make mutate`.

Each mutant (mutants.py) is judged by the laws that `layermask check` runs, on tiny models (../tiny.py). If
none of them fails, the tests that run the broken function are tried, the quickest first, until one does.

This process collects the tests and forks for every mutant, which takes milliseconds: a function in Python
is broken by giving it other code. What that cannot reach (kernels in C, and functions that only run while
the package is imported) is broken in a copy of the sources, from which a process of its own imports the
package.

Results are appended to out/mutants.jsonl as they come. What is there already is skipped while its file is
the same. What is known of mutants that nobody notices stands in survivors.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import inspect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tiny.py is of all tests

import broken  # noqa: E402
from mutants import RETURNS, Mutant, find  # noqa: E402

OUT = ROOT / "out"
SECONDS = 300  # of a processor; a mutant that takes longer hangs, and that is noticed
PATIENCE = 5  # times as long on the clock, for one that waits for something
BUDGET = 60  # seconds of a processor for the tests of one mutant, so that a busy machine judges alike
ENGINES = "test_sparse test_sparse_memory test_sparse_weights test_blocks test_layer_masking"
MASKS = "test_check test_twins test_twins_of_pools test_mechanism test_fill_kernels test_gradients"
RULES = "test_subsets test_spellings test_masks test_in_place test_rules_by_hand test_rules_opinfo"
RULES += " test_integers test_tokens test_rules_regions test_vectors test_tensor test_detectors"
PROGRAMS = "test_aliasing test_graphs"
KERNELS = "test_kernels test_fill_kernels test_twins test_sparse test_checksum test_in_place test_blocks"
KILLED = (-signal.SIGXCPU, -signal.SIGKILL)  # for taking too long
PLAIN = [
    "-q",
    "--continue-on-collection-errors",
    "-p",
    "no:xdist",
    "-p",
    "no:cacheprovider",
    "-m",
    "not slow",
    "--rootdir",
    str(ROOT),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="folder that holds the package")
    parser.add_argument("--only", default="*", help='wildcard on a mutant, as "rules/pool.py:*"')
    parser.add_argument("--limit", type=int, help="judge at most this many now")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin none later than this")
    parser.add_argument("--laws-only", action="store_true", help="without the tests")
    parser.add_argument("--report", action="store_true", help="say only what is known already")
    parser.add_argument("--again", action="store_true", help="judge anew what nobody noticed, and no other")
    parser.add_argument("--results", type=Path, default=OUT / "mutants.jsonl")
    options = parser.parse_args()
    options.results = options.results.resolve()
    torch.set_num_threads(1)
    options.results.parent.mkdir(exist_ok=True)
    if not options.report:
        judge(options)
    print(report(options.results))


def judge(options: argparse.Namespace) -> None:
    copy = copied(options.source, options.results.with_suffix(""))
    known = {line["name"]: line for line in stored(options.results)}
    wanted = chosen(find(copy / "layermask", every=options.again), known, options)[: options.limit]
    keeping = Keeping(options.results, len(wanted), time.monotonic() + 60 * options.minutes)
    if (sound := in_copy(copy, None, False))["by"] != "survived":
        raise SystemExit(f"unbroken, the package fails already: {sound}")
    become(copy)
    import layermask.check  # noqa: F401  # from the copy: all of it that the forks need

    table = chosen(registered(), known, options)
    table = table[: None if options.limit is None else max(0, options.limit - len(wanted))]

    def work(items: list) -> None:
        who = functools.cache(lambda: witnesses(copy, items))
        in_process(copy, wanted, keeping, items, who)
        of_table(copy, table, keeping, items, who)

    if options.laws_only:
        work([])
    else:
        files = test_files(f"{ENGINES} {MASKS} {RULES} {PROGRAMS}")
        pytest.main([*PLAIN, *files], plugins=[Session(work)])


def chosen(found: list[Mutant], known: dict[str, dict], options: argparse.Namespace) -> list[Mutant]:
    """Those that are to be judged now."""
    found = [mutant for mutant in found if fnmatchcase(mutant.name, options.only)]
    if not options.again:
        return [m for m in found if not done(known.get(m.name), m, options.laws_only)]
    return [m for m in found if m.name in known and known[m.name]["by"] == "survived"]


def done(line: dict[str, Any] | None, mutant: Mutant, laws_only: bool) -> bool:
    """Whether a result holds: of the same file, and of the tests too if they are wanted."""
    if line is None or line["key"] != mutant.key:
        return False
    return laws_only or line["by"] != "survived" or line["tests"]


class Keeping:
    """Appends results while there is time."""

    def __init__(self, path: Path, count: int, end: float) -> None:
        self.path, self.count, self.end, self.number = path, count, end, 0
        self.screen = os.fdopen(os.dup(1), "w")  # which pytest does not capture

    def keep(self, mutant: Mutant, verdict: Callable[[Mutant], dict[str, Any]]) -> None:
        if time.monotonic() > self.end:
            return
        line = {"name": mutant.name, "key": mutant.key, **verdict(mutant)}
        self.number += 1
        append(self.path, line)
        text = f"{self.number}/{self.count} {line['seconds']} s: {mutant.name}: {line['by']}"
        print(text, file=self.screen, flush=True)


# --- in a copy of the sources --------------------------------------------------------------------------


def copied(source: Path, copy: Path) -> Path:
    """Return a copy of the package to be broken."""
    shutil.rmtree(copy, ignore_errors=True)
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.o")
    shutil.copytree(source / "layermask", copy / "layermask", ignore=built)
    shutil.copy(HERE / "broken.py", copy / "layermask" / "_broken.py")
    return copy


def become(copy: Path) -> None:
    """Import the package from the copy from now on, with kernels built there."""
    os.environ["XDG_CACHE_HOME"] = str(copy / "cache")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    os.chdir(ROOT)


def in_copy(copy: Path, mutant: Mutant | None, tests: bool) -> dict[str, Any]:
    """Judge a mutant, or the sound package, by a fresh interpreter, broken in its source."""
    start, kernels = time.monotonic(), mutant is not None and mutant.file.startswith("kernels/c/")
    asked = KERNELS if kernels else RULES
    code = "import run, sys; print('BY', run.alone(*sys.argv[1:]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(copy), asked if tests else ""]
    with contextlib.nullcontext() if mutant is None else changed_file(copy / "layermask", mutant):
        try:
            done = subprocess.run(
                command,
                cwd=HERE,
                capture_output=True,
                text=True,
                timeout=PATIENCE * SECONDS,
                preexec_fn=_bounded,
            )
            by = "no end" if done.returncode in KILLED else "crash"
            by = next((line[3:] for line in done.stdout.splitlines() if line.startswith("BY ")), by)
        except subprocess.TimeoutExpired:
            by = "no end"
    return {"by": by, "tests": tests, "seconds": round(time.monotonic() - start, 1)}


def alone(copy: str, names: str) -> str:
    """In that interpreter: ask the laws, and the files of tests that are named, until one test fails."""
    become(Path(copy))
    return _tried(lambda: failing_law(models()) or failing_file(names) or "survived")


@contextlib.contextmanager
def changed_file(package: Path, mutant: Mutant) -> Iterator[None]:
    path = package / mutant.file
    whole = path.read_text()
    path.write_text(mutant.applied(whole))
    try:
        yield
    finally:
        path.write_text(whole)


def failing_file(names: str) -> str:
    first = First()
    files = test_files(names)
    status = pytest.main(["-x", *PLAIN, *files], plugins=[first]) if files else 0
    return "" if status == 0 else f"test {first.found or 'that is not collected'}"


def test_files(names: str) -> list[str]:
    return [str(path) for name in names.split() if (path := ROOT / "tests" / f"{name}.py").exists()]


class First:
    """Keeps the first test that fails."""

    found = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))


def forked(copy: Path, work: Callable[[], Any]) -> dict[str, Any]:
    """Return what `work` returns in a process of its own, `by`, and the `seconds` it took."""
    start, answer = time.monotonic(), copy / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setsid()
            _bounded()
            _silenced(copy)
            answer.write_text(json.dumps(_tried(work)))
        os._exit(0)
    end = _waited(child)
    by = json.loads(answer.read_text()) if answer.exists() else "no end" if end in KILLED else "crash"
    return {"by": by, "seconds": round(time.monotonic() - start, 1)}


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # of the import, for one
        return f"error: {type(error).__name__}: {error}"[:200]


def _silenced(copy: Path) -> None:
    log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)


def _waited(child: int) -> int:
    """Return how a process ended, as `subprocess` says it."""
    end = time.monotonic() + PATIENCE * SECONDS
    while time.monotonic() < end:
        if (ended := os.waitpid(child, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)  # the session that it began, and nobody else's
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- by other code, in a fork of this process ----------------------------------------------------------


class Session:
    """Pytest collects the tests, and then `work` is done with them in place of running all."""

    def __init__(self, work: Callable[[list], None]) -> None:
        self.work = work

    def pytest_runtestloop(self, session: Any) -> bool:
        self.work(session.items)
        return True


Witnesses = Callable[[], dict[str, list[str]]]
"""Place of a function -> the models and tests that run it; to record them takes minutes."""


def witnesses(copy: Path, items: list) -> dict[str, list[str]]:
    """The quickest first."""
    runs = {**recorded(copy, "models", models()), **recorded(copy, "tests", tests_by_name(items))}
    who: dict[str, list[str]] = defaultdict(list)
    for name, (_, places) in sorted(runs.items(), key=lambda run: run[1][0]):
        for place in places:
            who[place].append(name)
    return who


def engines_first(mutant: Mutant, names: list[str]) -> list[str]:
    """Of what the sparse engine runs, its own tests notice most; the many others only decline."""
    own = tuple(f"tests/{name}.py" for name in ENGINES.split() if mutant.file.startswith("sparse/"))
    return sorted(names, key=lambda name: not name.startswith(own))


def in_process(copy: Path, wanted: list[Mutant], keeping: Keeping, items: list, who: Witnesses) -> None:
    def verdict(mutant: Mutant) -> dict[str, Any]:
        names = engines_first(mutant, who()[f"{mutant.file}:{mutant.place}"])
        python = mutant.file.endswith(".py")
        if not python or not names or (swap := swaps(copy / "layermask", mutant)) is None:
            return in_copy(copy, mutant, bool(items))
        laws = [name for name in names if name in models()]
        tests = [item for name in names if (item := tests_by_name(items).get(name))]

        def noticed() -> str:
            swapped(swap)
            return failing_law(laws) or failing_item(tests) or "survived"

        return {**forked(copy, noticed), "tests": bool(items)}

    for mutant in wanted:
        keeping.keep(mutant, verdict)


# --- the table of rules -------------------------------------------------------------------------------


def registered() -> list[Mutant]:
    """Every rule in the table, all spellings of its function at once, with a wrong output or a wrong mask."""
    from layermask.core.rule_table import RULES

    key = hashlib.sha256((HERE / "broken.py").read_bytes()).hexdigest()[:16]
    stems = dict.fromkeys(function.__name__.strip("_") for function in RULES)
    return [
        Mutant("table", stem, kind, "", how, 0, 0, key) for stem in stems for kind, how in RETURNS.items()
    ]


def broken_rule(mutant: Mutant, seen: set[str]) -> None:
    """Break all spellings of a rule; `seen` hears whether it was called, and gave what can be broken so."""
    from layermask.core.rule_table import BUILT_IN, RULES

    for function, body in RULES.items():
        if function.__name__.strip("_") == mutant.place:
            wrong = _wrong_output(body, mutant.after, seen)
            RULES[function] = wrong
            if function in BUILT_IN:
                BUILT_IN[function] = wrong, BUILT_IN[function][1]


def _wrong_output(body: Callable, how: str, seen: set[str]) -> Callable:
    @functools.wraps(body)
    def answer(*args: Any, **kwargs: Any) -> Any:
        out = body(*args, **kwargs)
        seen.update({"called"}, {"broken"} if broken.can_break(out, how) else ())
        return getattr(broken, how)(out)

    return answer


def of_table(copy: Path, wanted: list[Mutant], keeping: Keeping, items: list, who: Witnesses) -> None:
    """Judge broken rules by the models, by tests with the function's name in theirs, by others of it."""

    def verdict(mutant: Mutant) -> dict[str, Any]:
        def noticed(asked: Callable[[], str]) -> str:
            seen: set[str] = set()
            broken_rule(mutant, seen)
            nothing = "invalid: it gives nothing to break"
            return asked() or (nothing if seen == {"called"} else "survived")

        named = [item for item in items if mutant.place in words(item.nodeid)]
        found = forked(copy, lambda: noticed(lambda: failing_law(models()) or failing_item(named)))
        if found["by"] == "survived":
            names = [name for place in places(copy, mutant) for name in who()[place]]
            others = [
                item for name in names if (item := tests_by_name(items).get(name)) not in (None, *named)
            ]
            before, found = found, forked(copy, lambda: noticed(lambda: failing_item(others)))
            found["seconds"] += before["seconds"]
        return {**found, "tests": bool(items)}

    for mutant in wanted:
        keeping.keep(mutant, verdict)


def places(copy: Path, mutant: Mutant) -> set[str]:
    """Where the code of a rule stands, of all spellings of its function."""
    from layermask.core.rule_table import RULES

    bodies = [body for function, body in RULES.items() if function.__name__.strip("_") == mutant.place]
    return {place_of(copy, inspect.unwrap(body).__code__) for body in bodies}


def place_of(copy: Path, code: types.CodeType) -> str:
    """`file:function` of the package's copy, "" of other code."""
    root, file = str(copy / "layermask") + os.sep, code.co_filename
    name = getattr(code, "co_qualname", code.co_name).partition(".<locals>")[0]
    return f"{file[len(root) :]}:{name}" if file.startswith(root) else ""


def words(nodeid: str) -> set[str]:
    """The names in a test's name, without underscores around them, and as PyTorch's database has them."""
    found = re.split(r"[^\w]+", nodeid)
    return {word.removeprefix("nn_functional_").strip("_") for word in found}


def recorded(copy: Path, kind: str, work: dict[str, Any]) -> dict[str, tuple[float, list[str]]]:
    """Return for each piece its seconds and the functions that it runs; kept while nothing changes."""
    path = copy.with_suffix(f".{kind}.json")
    texts = [p.read_bytes() for p in sorted([*copy.glob("layermask/**/*.py"), *ROOT.glob("tests/**/*.py")])]
    state = hashlib.sha256(b"".join(texts) + " ".join(work).encode()).hexdigest()
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("state") == state:
        return kept["runs"]
    found = forked_long(copy, lambda: {name: _profiled(copy, name, each) for name, each in work.items()})
    path.write_text(json.dumps({"state": state, "runs": found}))
    return found


def forked_long(copy: Path, work: Callable[[], Any]) -> Any:
    global SECONDS
    before, SECONDS = SECONDS, 3600
    try:
        found = forked(copy, work)["by"]
    finally:
        SECONDS = before
    if isinstance(found, str):
        raise SystemExit(f"the tests could not be recorded: {found}")
    return found


def _profiled(copy: Path, name: str, work: Any) -> tuple[float, list[str]]:
    known: dict[types.CodeType, str] = {}

    def see(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code not in known:
            known[frame.f_code] = place_of(copy, frame.f_code)

    start = time.monotonic()
    threading.setprofile(see)
    sys.setprofile(see)
    try:
        failed = failing_law([name]) if isinstance(work, str) else failure(work)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    # a test that fails as it is would notice everything
    return time.monotonic() - start, [] if failed else sorted({*known.values()} - {""})


def swaps(package: Path, mutant: Mutant) -> dict[types.CodeType, types.CodeType] | None:
    """The code objects of a function before and after; None if they do not pair off, or need others."""
    path = package / mutant.file
    text = path.read_text()
    before, after = (compile(t, str(path), "exec") for t in (text, mutant.applied(text)))
    pairs: dict[types.CodeType, types.CodeType] = {}
    try:
        _pair(before, after, pairs)
    except ValueError:
        return None
    changed = {a: b for a, b in pairs.items() if a != b}
    return None if any(a.co_freevars != b.co_freevars for a, b in changed.items()) else changed or None


def _pair(before: types.CodeType, after: types.CodeType, pairs: dict) -> None:
    inner = [[c for c in code.co_consts if isinstance(c, types.CodeType)] for code in (before, after)]
    for a, b in zip(*inner, strict=True):
        pairs[a] = b
        _pair(a, b, pairs)


def swapped(swap: dict[types.CodeType, types.CodeType]) -> None:
    for x in gc.get_objects():
        if type(x) is types.FunctionType and (code := swap.get(x.__code__)) is not None:
            x.__code__ = code


# --- who may notice ------------------------------------------------------------------------------------


def models() -> dict[str, str]:
    from tiny import MODELS

    return {name: "laws" for name in MODELS}


def tests_by_name(items: list) -> dict[str, Any]:
    return {item.nodeid: item for item in items}


def failing_law(names: Iterable[str]) -> str:
    from tiny import SIDE, built

    from layermask.check import check
    from layermask.check.samples import sample_images
    from layermask.kernels import library

    if library() is None:
        return "invalid: does not compile"
    images = sample_images(4, (3, SIDE, SIDE))
    for name in names:
        found = check(built(name), images)
        if found.missing or found.error:
            return f"check of {name}: {found.error or 'a rule is missing'}"
        for law in found.laws:
            if not law.passed:
                return f"law {law.law} of {name}: {law.detail}"
    return ""


def failing_item(items: list) -> str:
    end = time.process_time() + BUDGET
    for item in items:
        if time.process_time() > end:
            return ""
        if failure(item):
            return f"test {item.nodeid}"
    return ""


def failure(item: Any) -> bool:
    from _pytest.runner import runtestprotocol

    item._initrequest()
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


# --- results -------------------------------------------------------------------------------------------


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def stored(path: Path) -> list[dict[str, Any]]:
    """The latest result of every mutant."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({line["name"]: line for line in map(json.loads, lines)}.values())


def report(path: Path) -> str:
    """Say how many were noticed, by whom, and which by nobody, though survivors.md gives no reason."""
    lines = [line for line in stored(path) if not line["by"].startswith("invalid")]
    groups = Counter(line["by"].split()[0].rstrip(":") for line in lines)
    left = [line["name"] for line in lines if line["by"] == "survived"]
    unexplained = sorted(name for name in left if name not in explained())
    shares = ", ".join(f"{count} {group}" for group, count in groups.most_common())
    noticed = 100 * (len(lines) - len(left)) / max(1, len(lines))
    known = f"{len(left) - len(unexplained)} of {len(left)} survivors have a reason in survivors.md"
    return "\n".join(
        [*stale(), *unexplained, f"{len(lines)} mutants, {noticed:.1f} % noticed: {shares}; {known}"]
    )


def stale() -> list[str]:
    """What survivors.md lists though the sources have it no more."""
    there = {mutant.name for mutant in find(ROOT / "src" / "layermask", every=True)}
    listed = sorted(name for name in explained() - there if not name.startswith("table:"))
    return [f"in survivors.md, but no mutant: {name}" for name in listed]


def explained() -> set[str]:
    """The mutants that survivors.md lists, a line each."""
    path = HERE / "survivors.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line[3:-1] for line in lines if line.startswith("- `")}


if __name__ == "__main__":
    main()
