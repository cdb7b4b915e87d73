"""Random calls of the command line and damaged folders of results: each is answered or refused by name.

`python tests/cli_fuzz.py calls 2000 --seed 1` and `... folders 600` try many; the tests try a few.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from typer.testing import CliRunner

from layermask.cli.app import app
from layermask.errors import printable
from layermask.io.atomic import expanded

SECONDS = 90  # a call that takes longer hangs: the valid ones take a few, on a busy machine too

MODELS = """
import sys
import torch
from torch import nn
from layermask.zoo import Loaded, Preprocessing
def net(classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )
def loaded(model, labels=tuple("abcde"), **how):
    return Loaded(model, Preprocessing((36, 36), (32, 32), **how), labels, "tiny")
def tiny(): return loaded(net())
def unnamed(): return loaded(net(), ())
def misnamed(): return loaded(net(), ("a", "b"))
def one(): return loaded(net(1), ("a",))
def leaves(): sys.exit(0)
def stops(): raise GeneratorExit("stop")
def raises(): raise RuntimeError("two\\nlines")
def number(): return 5
def nothing(): return None
def unreadable(): return loaded(net(), std=(0.0, 0.0, 0.0))
def tangled(): return loaded(net(), interpolation="sideways")
class Leaving(nn.Module):
    def forward(self, x): sys.exit(0)
def leaving(): return loaded(Leaving())
class Later(nn.Module):
    def __init__(self): super().__init__(); self.asked = 0
    def forward(self, x):
        self.asked += 1
        return x.mean((2, 3)) if self.asked == 1 else sys.exit(0)
def later(): return loaded(Later(), ("a", "b", "c"))
class Words(nn.Module):
    def forward(self, x): return "words"
def words(): return loaded(Words())
class Grid(nn.Module):
    def forward(self, x): return x
def grid(): return loaded(Grid())
def faraway(): return loaded(net().to("meta"))
constant = 3
"""
BAD_MODELS = "misnamed one leaves stops raises number nothing unreadable tangled leaving words grid faraway"


@dataclass(frozen=True)
class World:
    """A folder with pictures, labelled data, models and all kinds of odd files; its places by their kind."""

    folder: Path
    odd: list[str]

    def path(self, name: str) -> str:
        return str(self.folder / name)


def make_world(folder: Path) -> World:
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png", "data/a.png", "data/b.png", "data/c.png", *MANY):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (48, 48, 3), np.uint8)).resize((60, 48)).save(path)
    for name in ("mask.png", "data/masks/a.png", "data/masks/b.png", "data/masks/c.png"):
        mask = np.zeros((48, 60), np.uint8)
        mask[10:40, 10:40] = 255
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / name)
    (folder / "data/labels.csv").write_text("file,label\na.png,1\nb.png,2\nc.png,3\n")
    np.save(folder / "labels.npy", np.arange(48 * 60).reshape(48, 60) // 720)
    (folder / "fuzz_models.py").write_text(MODELS)
    (folder / "fuzz_broken.py").write_text("def f(:\n")
    sys.path.insert(0, str(folder))
    models: Any = __import__("fuzz_models")
    torch.save(models.net().state_dict(), folder / "weights.pth")
    (folder / "home").mkdir()
    os.environ["HOME"] = str(folder / "home")  # which ~ stands for
    world = World(folder, _odd(folder / "odd"))
    shutil.copytree(results(world)["segments"][1], folder / "results")
    return world


def _odd(folder: Path) -> list[str]:
    """Return names that a path option should refuse or, a few of them, take."""
    (folder / "folder").mkdir(parents=True)
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "noise.npy").write_bytes(b"\x93NUMPY" + random.Random(0).randbytes(200))
    (folder / "cut.png").write_bytes((folder.parent / "a.png").read_bytes()[:300])
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made, within(folder):
        made.bind("socket.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("not-there.png")
    odd = os.fsdecode(os.fsencode(folder) + b"/bad\xff.png")
    shutil.copy(folder.parent / "a.png", odd)
    names = [str(path) for path in folder.iterdir()]
    return [
        *names,
        str(folder),
        f"{folder}/{'x' * 300}",
        f"{folder}/text.png/below",
        "/dev/zero",
        "/dev/null",
    ]


MANY = [f"many/{number}.png" for number in range(10)]
"""As many pictures as `layermask fit` needs."""

NUMBERS = "-1 0 1 2 1.5 1e400 nan inf -inf 0x10 1_0 x ٣ -- 2147483648 -2147483649".split()
NUMBERS += [str(2**63), str(-(2**63) - 1), str(10**30), "9" * 5000, "", " ", "é", "\udcff", "1,2", "\x1b[31m"]
WORDS = """
    none all layermask greyout,greyout , : :: ..:f a:b:c ~ ~nobody %s {} lime random@none gradient@greyout
    grid: grid:-3 grid:0 grid:nan grid:1e9 slic:0 slic:x=1 slic:-5 quickshift:max_dist=0 quickshift:seed=-1
    felzenszwalb:0 watershed:0 watershed:-1 boxes: boxes:0,0,9 boxes:-1,0,9,9 boxes:9,9,0,0
    hpu meta privateuseone cuda:99 cpu:7 xpu torchvision/none timm/ hf/ hf/no/such timm/none.tag
    fuzz_broken:f os:getcwd fuzz_models:tiny fuzz_models:constant
""".split()
WORDS += [f"grid:{10**30}", *(f"fuzz_models:{name}" for name in BAD_MODELS.split())]

COUNTS = "--seed --limit --k --among --samples --n-samples --steps --n-orders --hits".split()
SEGMENTS = "grid:9 slic slic:4 quickshift felzenszwalb watershed:9 boxes:0,0,9,9 paper-slic grid:5".split()
REMOVALS = (
    "layermask mean,layermask road,blur segment-mean,zero tokendrop,greyout telea,neighbor blackout".split()
)
METHODS = "lime kernel-shap shapley banzhaf leave-one-out keep-one occlusion rise insertion deletion".split()
TAKEN = {
    **{option: ["0", "1", "2", "3", "7", "16"] for option in COUNTS},
    "--segments": [*SEGMENTS, "grid:9,slic:4"],
    **{option: [*REMOVALS, "none"] for option in ("--removals", "--against", "--ablation")},
    "--method": METHODS,
    "--methods": ["random", "gradient", "random,lime@greyout", "input-x-gradient,rise"],
    "--orders": ["random", "salient-first", "salient-last,random"],
    "--kind": ["auto", "folder", "imagenet", "imagenet-s", "pixel-imagenet", "salient-imagenet"],
    "--device": ["auto", "cpu"],
    "--batch-size": ["auto", "1", "3", "2147483647"],
    "--patches": ["4", "8,16", "31", "32"],
    "--of": ["features", "logits"],
    "--head": ["4", "0", "5"],
    "--rule": ["mean", "trapezoid"],
    "--explain": ["label", "prediction"],
    "--target": ["a", "0", "4", "5", "-1"],
    **{option: ["0", "0.01", "0.5", "0.99", "1"] for option in ("--converge", "--precision", "--hide")},
    "--model": ["fuzz_models:unnamed", "fuzz_models:tiny"],
    "--size": ["1", "4", "5", "33"],
}
"""Values that an option may take."""

TINY = ["--model", "fuzz_models:tiny"]
FAST = [*TINY, "--segments", "grid:16", "--samples", "8", "--against", "greyout", "--device", "cpu"]


def calls(world: World) -> list[list[str]]:
    """Return one valid call of each command, as its words and then options with values."""
    at, data = world.path, ["--data", world.path("data"), *TINY, "--device", "cpu", "--kind", "folder"]
    one = ["--removals", "layermask,greyout", "--limit", "2", "--seed", "1", "--batch-size", "8"]
    cells = ["--segments", "grid:16"]
    drawn = ["--seed", "3", "--converge", "0.1", "--target", "b", "--batch-size", "4"]
    lime = ["--n-samples", "8", "--k", "2", "--among", "5"]
    return [
        ["explain", at("a.png"), *FAST, *drawn],
        ["explain", at("a.png"), *FAST, "--report", at("out/page.html"), "--method", "lime"],
        ["predict", at("a.png"), "--mask", at("mask.png"), *TINY, "--against", "greyout", "--device", "cpu"],
        ["compare", at("a.png"), *TINY, "--hide", "0.5", "--seed", "2", "--device", "cpu"],
        ["segments", at("a.png"), "--segments", "grid:16"],
        ["check", "fuzz_models:tiny", "--size", "32", "--device", "cpu"],
        ["models", "resnet18"],
        ["evaluate", "segments", *data, *one, *cells, "--orders", "random"],
        ["evaluate", "shape", *data, *one[:4], "--batch-size", "8"],
        ["evaluate", "linearity", *data, *one[:4], "--patches", "16", "--of", "features", "--head", "4"],
        ["evaluate", "lime", *data, *one, *cells, *lime],
        ["evaluate", "operators", *data, *one, *cells, "--steps", "2", "--n-orders", "2"],
        ["audit", "fuzz_models:tiny", "--data", at("data"), *one, *cells, "--linearity-images", "1"],
        ["fit", "fuzz_models:tiny", "--data", at("many"), "--limit", "10", "--seed", "1", "--device", "cpu"],
        ["plot", at("results")],
        ["export", "fuzz_models:tiny", "--format", "pt2", "--size", "32"],
    ]  # fmt: skip


EXTRA = [
    "--weights",
    "--fitted",
    "--images",
    "--out",
    "--rule",
    "--hits",
    "--samples",
    "--methods",
    "--explain",
    "--ablation",
]


def mutated(call: list[str], world: World, draw: random.Random) -> tuple[list[str], list[str]]:
    """Return the call with one to three values changed, and the options and values that were."""
    call = list(call)
    changed = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = [place for place in range(1, len(call)) if not call[place].startswith("--")]
        odd, way = draw.choice(draw.choice((NUMBERS, WORDS, world.odd))), draw.random()
        if way < 0.75 and places:
            place = draw.choice(places)
            before = call[place - 1] if call[place - 1].startswith("--") else call[place]
            call[place] = draw.choice(TAKEN[before]) if before in TAKEN and draw.random() < 0.6 else odd
            changed += [before, call[place]]
        elif way < 0.97:
            option = draw.choice((*EXTRA, *(word for word in call if word.startswith("--"))))
            call += [option, draw.choice(TAKEN.get(option, [odd]))]
            changed += call[-2:]
        else:
            call.append(odd)
            changed.append(odd)
    return call, changed


@dataclass
class Found:
    """What came of a run of the fuzzer."""

    tried: int = 0
    answered: int = 0
    faults: list[str] = field(default_factory=list)


@contextlib.contextmanager
def within(folder: str | Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise KeyboardInterrupt  # which ends a command with status 130, a fault

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ask(call: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its status and all it printed."""
    with limited(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, call)
    unexpected = not isinstance(result.exception, (SystemExit, type(None)))
    return (-2, repr(result.exception)) if unexpected else (result.exit_code, result.output)


def _bare(text: str) -> str:
    return "".join(printable(text).split()).replace("│", "")


def fault(call: list[str], changed: list[str], status: int, said: str) -> str | None:
    """Return what is wrong with an outcome that is neither an answer nor a refusal that names the cause."""
    bare = _bare(said).replace("batchsize", "batch-size")
    words = [word.strip("-/") for word in changed] + [word for word in call if word.startswith(("--", "/"))]
    words += [name for word in changed for name in (str(expanded(word)), Path(word).stem)]
    words += [re.split(r"[,:.@]", word)[0] for word in words]
    named = any(_bare(word)[:30] in bare for word in words if word.strip())
    named |= any(repr(word) in said for word in changed) or "Usage:" in said
    judged = status == 1 and call[0] == "check" and "FAILS" in said  # which is an answer, too
    if status == 0 or judged or (status == 2 and named and "Traceback" not in said):
        return None
    return f"status {status} of {call!r}, changed {changed!r}: {said.strip()[-300:]!r}"


SLOW = {"compare", "export", "models"}


def fuzz_calls(world: World, count: int, seed: int, without: Iterable[str] = ()) -> Found:
    """Try random calls; each in a new current folder, so that defaults of --out write nowhere else."""
    draw, found = random.Random(seed), Found()
    choices = [call for call in calls(world) if call[0] not in without]
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder, within(folder):
            call, changed = mutated(draw.choice(choices), world, draw)
            status, said = ask(call)
        found.tried += 1
        found.answered += status == 0
        if problem := fault(call, changed, status, said):
            found.faults.append(problem)
    return found


# Folders of results

Damage = Callable[[Path, random.Random], None]


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) + 1)])


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    for _ in range(draw.choice((1, 3, 30))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def gone(path: Path, draw: random.Random) -> None:
    path.unlink()


def folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def other_text(path: Path, draw: random.Random) -> None:
    texts = [
        "null",
        "5",
        "[]",
        "{}",
        "[" * 99999,
        '{"a":' * 9999,
        '"x"',
        '{"a": NaN}',
        "\xff",
        '{"images": 3}',
    ]
    path.write_bytes(draw.choice(texts).encode("latin-1"))


def other_leaf(path: Path, draw: random.Random) -> None:
    """Change, or take away, a value somewhere in a JSON file."""
    record = place = json.loads(path.read_text())
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.2:
            break
        place = place[key]
    if draw.random() < 0.3:
        del place[key]
    else:
        place[key] = draw.choice([None, -1, 1e308, "x", [], {}, True, [[]], {"images": {}}])
    path.write_text(json.dumps(record))


def _table(change: Callable[[Any, random.Random], Any]) -> Damage:
    def damage(path: Path, draw: random.Random) -> None:
        pq.write_table(change(pq.read_table(path), draw), path)

    return damage


def _other_value(table: Any, draw: random.Random) -> Any:
    rows = table.to_pylist()
    row, name = draw.choice(rows), draw.choice(table.column_names)
    row[name] = draw.choice([other[name] for other in rows])
    return pa.Table.from_pylist(rows, table.schema)


def again(path: Path, draw: random.Random) -> None:
    """Put the same shard under another number, as a copy that went wrong does."""
    shutil.copy(path, path.with_name("000009.parquet"))


FILES: list[Damage] = [cut, flip, gone, folder, pipe, loop]
TEXTS: list[Damage] = [other_text, other_leaf]
TABLES: list[Damage] = [
    _table(lambda table, draw: pa.concat_tables([table, table])),
    _table(lambda table, draw: pa.concat_tables([table, table.slice(draw.randrange(len(table)), 1)])),
    _table(lambda table, draw: table.drop_columns([draw.choice(table.column_names)])),
    _table(lambda table, draw: table.rename_columns([f"{name}2" for name in table.column_names])),
    _table(lambda table, draw: table.slice(draw.randrange(len(table)))),
    _table(lambda table, draw: table.replace_schema_metadata({})),
    _table(lambda table, draw: table.append_column("more", pa.array([1] * len(table)))),
    _table(_other_value),
    again,
]


def _damage(path: Path, draw: random.Random) -> str:
    kinds = FILES + (TEXTS if path.suffix == ".json" else TABLES if path.suffix == ".parquet" else [])
    damage = draw.choice(kinds)
    damage(path, draw)
    return f"{damage.__name__} {path.name}"


def results(world: World) -> dict[str, tuple[list[str], Path]]:
    """Return by name a command that goes on in its folder, and a finished folder of it."""
    many = [world.path("data/a.png"), world.path("data/b.png")]
    data = ["--data", world.path("data"), *TINY, "--removals", "layermask,greyout", "--limit", "2"]
    made = {
        "segments": ["evaluate", "segments", *data, "--segments", "grid:16"],
        "shape": ["evaluate", "shape", *data],
        "lime": ["evaluate", "lime", *data, "--segments", "grid:16", "--n-samples", "8", "--k", "2"],
        "explain": ["explain", *many, *FAST],
        "predict": ["predict", *many, "--mask", world.path("mask.png"), *TINY, "--against", "greyout"],
    }
    found = {}
    for name, call in made.items():
        out = world.folder / "finished" / name
        status, said = (0, "") if out.exists() else ask([*call, "--out", str(out)])
        assert status == 0, said
        found[name] = call, out
    return found


def kept(folder: Path) -> dict[str, Any]:
    """Return what a folder of results says: its table, or the records of pictures."""
    table = folder / "results.parquet"
    if table.exists():
        return {"rows": pq.read_table(table).to_pylist()}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".png")}


def fuzz_folders(world: World, count: int, seed: int) -> Found:
    """Damage finished folders and run the same command again: it ends with the same results, or refuses."""
    draw, found = random.Random(seed), Found()
    finished = results(world)
    for _ in range(count):
        name = draw.choice(list(finished))
        call, whole = finished[name]
        with tempfile.TemporaryDirectory() as place:
            out = Path(shutil.copytree(whole, f"{place}/results"))
            files = sorted(path for path in out.rglob("*") if path.is_file())
            target = draw.choice(files)
            what = _damage(target, draw)
            plotted = target.name == "results.parquet" and draw.random() < 0.5
            status, said = ask(["plot", str(out)] if plotted else [*call, "--out", str(out)])
            found.tried += 1
            found.answered += status == 0
            same = plotted or status != 0 or kept(out) == kept(whole)
            if plotted and status == 0:
                same = kept(out) == kept(whole)
            problem = fault(call, [target.name, "--out"], status, said)
            if problem or not same:
                found.faults.append(f"{what}: {problem or 'other results, without a word'}")
    return found


# Files that go in


ANNOTATIONS = {
    "images": [{"id": 1, "file_name": "n01440764/a.png", "width": 60, "height": 48}],
    "categories": [{"id": 1, "name": "n01440764"}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 30, 5, 30, 30]]},
        {"image_id": 1, "category_id": 1, "segmentation": {"counts": [100, 200, 2580], "size": [48, 60]}},
    ],
}


def inputs(world: World) -> list[tuple[list[str], str]]:
    """Return commands, and a folder of what they read, {} in the command: every file of it may be damaged."""
    coco = world.folder / "coco"
    if not coco.exists():
        (coco / "n01440764").mkdir(parents=True)
        shutil.copy(world.path("a.png"), coco / "n01440764")
        (coco / "annotations.json").write_text(json.dumps(ANNOTATIONS))
        files = world.folder / "files"
        files.mkdir()
        for name in ("a.png", "mask.png", "labels.npy", "weights.pth"):
            shutil.copy(world.path(name), files)
    few = [*TINY, "--removals", "greyout"]
    one = ["{}/a.png", *TINY, "--weights", "{}/weights.pth"]
    return [
        (["evaluate", "segments", "--data", "{}", *few, "--segments", "grid:16"], "data"),
        (["evaluate", "shape", "--data", "{}", *few, "--skip-unreadable"], "data"),
        (["evaluate", "shape", "--data", "{}", "--kind", "pixel-imagenet", *few], "coco"),
        (["predict", *one, "--mask", "{}/mask.png", "--against", "none"], "files"),
        (["explain", *one, "--segments", "{}/labels.npy", "--samples", "8", "--against", "none"], "files"),
    ]


def fuzz_inputs(world: World, count: int, seed: int) -> Found:
    """Damage a file that a command reads: it answers, or names the file or what belongs to it."""
    draw, found = random.Random(seed), Found()
    for _ in range(count):
        call, name = draw.choice(inputs(world))
        with tempfile.TemporaryDirectory() as place, within(place):
            folder = Path(shutil.copytree(world.path(name), f"{place}/in"))
            target = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
            what = _damage(target, draw)
            call = [word.replace("{}", str(folder)) for word in call]
            status, said = ask(call)
        found.tried += 1
        found.answered += status == 0
        if problem := fault(call, [target.name, str(folder)], status, said):
            found.faults.append(f"{what}: {problem}")
    return found


FUZZERS = {"calls": fuzz_calls, "folders": fuzz_folders, "inputs": fuzz_inputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=FUZZERS)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world, start = make_world(Path(folder)), time.monotonic()
        found = FUZZERS[given.what](world, given.count, given.seed)
    print("\n".join(found.faults))
    took = time.monotonic() - start
    print(f"{found.tried} tried, {found.answered} answered, {len(found.faults)} faults, {took:.0f} s")


if __name__ == "__main__":
    main()
