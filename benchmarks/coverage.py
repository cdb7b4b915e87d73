"""Judge models of many libraries by laws 1, 2, 5 and 9; write docs/coverage.md and docs/works-with.md.

Every torchvision and timm architecture, and those of `libraries.py` whose packages are installed. Weights
are random. Each model runs in a process of its own, so that a crash or the time limit ends that model only.
Results are appended to out/coverage.jsonl as they come, with the versions they hold for: what is there
already is skipped, so an interrupted run goes on where it stopped. `--limit 0` writes the pages only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import libraries

import layermask

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "out" / "coverage.jsonl", ROOT / "docs" / "coverage.md"
FAMILIES = ROOT / "docs" / "works-with.md"
LAWS = ("1", "2", "5", "9")
COARSE = 1e-2  # as in layermask.check.laws
LARGEST = {"timm": 120_000_000, "torchvision": math.inf}  # parameters
LARGEST_OF_OTHERS = 60_000_000
BATCH = 4
ENGINE = """
    core/*.py padding/*.py kernels/**/*.py kernels/c/*.[ch] sparse/**/*.py rules/*.py
    removal/layer_masking.py removal/fills/*.py explain/feature_maps.py check/*.py
    """.split()
PRELOAD = ["timm", "torchvision", "libraries", "layermask.check.randomise", "layermask.zoo.architectures"]

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="*", help='wildcard on the name, as "timm/vit_*"')
    parser.add_argument("--limit", type=int, help="judge at most this many models now")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of one model")
    options = parser.parse_args()
    versions = _versions()
    done = {
        result["model"] for result in _stored(versions) if not result.get("late")
    }  # a busy machine's: again
    wanted = [name for name in _names() if fnmatchcase(name, options.only) and name not in done]
    _judge_all(wanted[: options.limit], versions, options.jobs, options.seconds)
    classifiers = [r for r in _stored() if _library(r) in LARGEST]
    total = sum(name.partition("/")[0] in LARGEST for name in _names())
    PAGE.write_text(page(classifiers, versions, total), encoding="utf-8")
    FAMILIES.write_text(families(_stored(), versions), encoding="utf-8")
    pages = f"{PAGE.relative_to(ROOT)} and {FAMILIES.relative_to(ROOT)}"
    print(f"{len(_stored(versions))} of {len(_names())} judged; wrote {pages}")


def _names() -> list[str]:
    """Every model, torchvision's first, the rest shuffled: a run cut short is a fair sample."""
    from layermask.zoo.sources import library_names

    known = [*library_names(), *libraries.names()]
    random.Random(0).shuffle(known)
    return sorted(known, key=lambda name: name.startswith("timm/"))


def _versions() -> dict[str, str]:
    """What the results depend on; `layermask` with a digest of engine and laws, as they change meanwhile."""
    folder = Path(layermask.__file__).parent
    text = b"".join(path.read_bytes() for pattern in ENGINE for path in sorted(folder.glob(pattern)))
    packages = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"layermask": f"{version('layermask')}+{hashlib.sha256(text).hexdigest()[:10]}", **packages}


def _stored(versions: dict[str, str] | None = None) -> list[Result]:
    """The latest result of every model, for these versions or any; a line that was cut short is none."""
    found = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            result = json.loads(line)
            if versions in (None, result["versions"]):
                found[result["model"]] = result
    return list(found.values())


# --- running -------------------------------------------------------------------------------------------


def _judge_all(names: list[str], versions: dict[str, str], jobs: int, seconds: float) -> None:
    from layermask.io.progress import bar

    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file, bar("coverage", len(names)) as advance:
        for result in _each_in_its_process(names, jobs, seconds):
            file.write(json.dumps({**result, "versions": versions}) + "\n")
            file.flush()
            advance(1)


def _each_in_its_process(names: list[str], jobs: int, seconds: float) -> Iterator[Result]:
    """Yield the results as they come, at most `jobs` at a time, none later than `seconds` after its start."""
    context = multiprocessing.get_context("forkserver")  # imports once, forks per model
    context.set_forkserver_preload(PRELOAD)
    left, running = list(reversed(names)), {}
    try:
        while left or running:
            while left and len(running) < jobs:
                name = left.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_report, args=(name, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = (name, process, time.monotonic())
            ready = wait(list(running), timeout=1)
            for pipe, (name, process, start) in list(running.items()):
                late = time.monotonic() - start > seconds
                if pipe in ready or late:
                    yield _collect(pipe, name, process, f"no answer in {seconds:.0f} s" if late else "")
                    del running[pipe]
    finally:
        for _, process, _ in running.values():
            process.kill()


def _collect(pipe: Connection, name: str, process: Any, reason: str) -> Result:
    """Return what the process sent; for one that was killed or crashed, why."""
    try:
        if not reason:
            return pipe.recv()
    except EOFError:
        process.join()
        reason = f"the process ended with status {process.exitcode}"
    finally:
        pipe.close()
        process.kill()
        process.join()
    return {"model": name, "error": reason, "laws": {}, "missing": [], "late": "no answer" in reason}


def _report(name: str, pipe: Connection) -> None:
    start = time.monotonic()
    try:
        result = judge(name)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}".split("\n")[0], "laws": {}, "missing": []}
    pipe.send({"model": name, **result, "seconds": round(time.monotonic() - start, 2)})


def judge(name: str) -> Result:
    """Build the model `name` at a reduced size with random weights and judge it."""
    import torch

    from layermask.check import check
    from layermask.check.randomise import randomise
    from layermask.check.samples import sample_images

    torch.set_num_threads(1)
    if (count := _parameters(name)) > LARGEST.get(name.partition("/")[0], LARGEST_OF_OTHERS):
        return {"parameters": count, "skipped": True}
    try:
        model, shape = _built(name)
        images = sample_images(BATCH, shape)
        with torch.no_grad():
            model(images)
    except Exception as error:
        if name.partition("/")[0] in LARGEST:
            raise
        return {"skipped": True, "error": f"{type(error).__name__}: {error}".split("\n")[0]}
    report = check(randomise(model, images), images, LAWS)
    return {
        "family": _family(name),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input": shape,
        "missing": list(report.missing),
        "error": report.error,
        "laws": {law.law: [law.passed, law.error, law.detail, law.rounding] for law in report.laws},
    }


def _parameters(name: str) -> int:
    """How many parameters the model has; 0 where that takes memory, or nobody asks."""
    import torch

    from layermask.zoo.architectures import parameters

    if name.partition("/")[0] in LARGEST:
        return parameters(name) if name.startswith("timm/") else 0
    with contextlib.suppress(Exception), torch.device("meta"):  # some look at their own data
        return sum(parameter.numel() for parameter in libraries.build(name)[0].parameters())
    return 0


def _built(name: str) -> tuple[Any, tuple[int, ...]]:
    from layermask.zoo.architectures import build, smallest_size

    if name.partition("/")[0] in LARGEST:
        return build(name, smallest_size(name))
    return libraries.build(name)


def _library(result: Result) -> str:
    return result["model"].partition("/")[0]


def _family(name: str) -> str:
    """The file that the model is written in; its name, of models that are one of their family."""
    import timm
    from torchvision import models

    library, _, short = name.partition("/")
    if library not in LARGEST:
        return short
    builder = timm.model_entrypoint(short) if library == "timm" else models.get_model_builder(short)
    return builder.__module__.rpartition(".")[2]


# --- the page ------------------------------------------------------------------------------------------


LEGEND = """## Laws

1: with all visible, alone or among masked images, the plain model's answer. 2: NaN, inf or noise on hidden
pixels changes nothing. 5: a batch answers as its images one by one, in any order. The figures are the
largest deviation relative to the largest output; 0 is bit-identical. 9: the sparse engine answers as the
dense one. Laws 1, 2 and 5 are judged of both engines, and the figure is that of the worse.

Laws 1, 5 and 9 allow 1e-5, because another batch size, mask or engine makes another kernel run. A figure
above that, marked *, is rounding, amplified by a deep net with random weights. That is known in two ways,
and both are asked for. The same engine, run in float64, is right to 1e-10, or to 8 times what rounding does
there. And in float32 it is off by at most 8 times what rounding does to the model's answers: the number in
brackets says how many times. What rounding does is measured on the same images. It is the largest of three:
how far the plain model's answers are from those in float64, how far those in a batch are from those one by
one, and, for laws 5 and 9, how far a masked answer moves when every pixel changes in its last digit. ‡
marks models of which rounding takes more than a percent: there float32 tells little, and float64 decides.
In law 2, * marks a kernel that does not repeat its own answer to the bit.
"""


def page(results: list[Result], versions: dict[str, str], total: int) -> str:
    """Return docs/coverage.md."""
    judged = sorted((r for r in results if not r.get("skipped")), key=lambda r: (_holds(r), r["model"]))
    skipped, failures = len(results) - len(judged), [r for r in judged if not _holds(r)]
    missing, earlier = total - len(results), [r for r in judged if r["versions"] != versions]
    lines = [
        "# Coverage",
        "",
        "Written by `make coverage`: every torchvision classification model, and every timm architecture of",
        f"up to {LARGEST['timm'] // 10**6} M parameters ({skipped} are larger), with random weights and",
        f"randomised statistics, {BATCH} images at a time, of the smallest side that the model takes from",
        "64 pixels on.",
        "",
        f"{time.strftime('%Y-%m-%d')}, " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        *_totals(judged),
        *([f"**{missing} models have not been judged yet.**", ""] if missing else []),
        *([f"{len(earlier)}, marked †, were judged at other versions of these.", ""] if earlier else []),
        LEGEND,
        *_failures(failures),
        "## Models",
        "",
        "| model | family | M parameters | input | missing rules | law 1 | law 2 | law 5 | law 9 |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(r, "" if r["versions"] == versions else " †") for r in judged),
    ]
    return "\n".join(lines) + "\n"


def families(results: list[Result], versions: dict[str, str]) -> str:
    """Return docs/works-with.md: a line for every family of every library."""
    judged = [r for r in results if not r.get("skipped")]
    unbuilt = sum(bool(r.get("error")) for r in results if r.get("skipped"))
    rows: dict[str, dict[str, list[Result]]] = {}
    for result in sorted(judged, key=lambda r: r["model"]):
        family = result.get("family") or result["model"].partition("/")[2]
        rows.setdefault(_library(result), {}).setdefault(family, []).append(result)
    totals = [
        f"| {name} | {len(those)} | {sum(all(map(_holds, members)) for members in those.values())} |"
        for name, those in rows.items()
    ]
    lines = [
        "# Works with",
        "",
        "Written by `make coverage`: what was run under `LayerMasking`, with random weights, and whether",
        "laws 1, 2, 5 and 9 hold ([coverage.md](coverage.md) says what they are). The last column says what",
        "went wrong with the others: mostly an operation without a rule, which is an error that names it.",
        f"{unbuilt} models are left out, as they do not run here even without masks; so are the largest.",
        "",
        f"{time.strftime('%Y-%m-%d')}, " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        "| library | families | hold all laws |",
        "|---|---|---|",
        *totals,
    ]
    for library, those in rows.items():
        lines += ["", f"## {library}", "", "| family | models | hold | otherwise |", "|---|---|---|---|"]
        lines += [_family_row(family, members) for family, members in those.items()]
    return "\n".join(lines) + "\n"


def _family_row(family: str, members: list[Result]) -> str:
    failed = [_reason(r)[:160] for r in members if not _holds(r)]
    good = len(members) - len(failed)
    return f"| {family} | {len(members)} | {good} | {'; '.join(dict.fromkeys(failed))} |"


def _holds(result: Result) -> bool:
    """Whether it was judged, and every law of that time holds."""
    laws = result["laws"].values()
    return bool(laws) and all(passed for passed, *_ in laws) and not result["error"]


def _totals(judged: list[Result]) -> list[str]:
    lines = ["| library | models | hold all laws | |", "|---|---|---|---|"]
    for library in ("torchvision", "timm"):
        those = [r for r in judged if r["model"].startswith(f"{library}/")]
        good = sum(map(_holds, those))
        lines.append(f"| {library} | {len(those)} | {good} | {100 * good / max(1, len(those)):.1f} % |")
    return [*lines, ""]


def _failures(failures: list[Result]) -> list[str]:
    if not failures:
        return []
    reasons = [f"- `{result['model']}`: {_reason(result)}" for result in failures]
    return [f"## Failures ({len(failures)})", "", *reasons, ""]


def _reason(result: Result) -> str:
    broken = [f"law {law}: {detail}" for law, (passed, _, detail, *_) in result["laws"].items() if not passed]
    missing = [f"no rule for {', '.join(result['missing'])}"] if result["missing"] else []
    return "; ".join([*missing, *broken, *filter(None, [result["error"]])]).replace("|", "\\|")


def _row(result: Result, mark: str) -> str:
    size = "x".join(map(str, result.get("input", ())))
    cells = [
        result["model"] + mark,
        result.get("family", ""),
        f"{result.get('parameters', 0) / 1e6:.1f}",
        size,
    ]
    cells += [", ".join(result["missing"]), *(_figure(result["laws"].get(law)) for law in LAWS)]
    return f"| {' | '.join(cells)} |"


def _figure(verdict: list | None) -> str:
    if verdict is None:
        return "–"
    passed, error, _, rounding = verdict if len(verdict) == 4 else (*verdict, 0.0)
    text = "0" if error == 0 else f"{error:.0e}"
    mark = "‡" if rounding > COARSE else "*" if rounding else ""
    return f"{text}{mark} ({error / rounding:.1f})" if passed and mark else text if passed else f"**{text}**"


if __name__ == "__main__":
    main()
