"""The harness of `make bench`: its grid, runs that are cut short, and the page, with and without a GPU."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a file of benchmarks/, all of them anew for each test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name) for name in SCRIPTS if name in sys.modules}
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def tiny_resnet(load: Load) -> nn.Module:
    torch.manual_seed(0)
    return load("resnet").ResNet((1, 1, 1, 1), 10).eval()


@pytest.fixture
def small(load: Load, monkeypatch: pytest.MonkeyPatch) -> Load:
    """All benchmarks, of a small ResNet and pictures of 32x32."""
    models, masks = load("models"), load("masks")
    monkeypatch.setattr(masks, "SIZE", 32)
    monkeypatch.setattr(masks, "SIDE", 8)
    monkeypatch.setitem(models.MODELS, "resnet50", lambda: tiny_resnet(load))
    monkeypatch.setattr(load("memory"), "on_cpu", lambda cell, side: 2.0 if side == "plain" else 3.0)
    return load


def cell(load: Load, **change: Any) -> Any:
    base = {"device": "cpu", "model": "resnet50", "mask": "patches", "hidden": 0.5, "dtype": "float32"}
    return load("cells").Cell(**{**base, "batch": 2, "mode": "eager", "layout": "contiguous", **change})


# --- what is measured ----------------------------------------------------------------------------------


def test_the_grid_has_what_was_asked_for(load: Load) -> None:
    cells, models, masks = load("cells"), load("models"), load("masks")
    assert set(cells.EVERY_MODEL) == set(models.MODELS) and set(cells.EVERY_MASK) == set(masks.MASKS)
    for device, batches in (("cpu", {1, 16, 64}), ("cuda", {128, 256})):
        every = cells.cells(device)
        assert len({each.name for each in every}) == len(every)
        core = {(c.model, c.mask, c.hidden) for c in every if c.mode == "eager"}
        kinds = [(m, k, h) for m in cells.EVERY_MODEL for k in cells.EVERY_MASK for h in (0.25, 0.5, 0.75)]
        assert core >= set(kinds)
        assert {c.batch for c in every} == batches
        assert {c.mode for c in every} == {"eager", "compile"}
        assert {c.dtype for c in every} == {"float32", "bfloat16"}
        assert {c.layout for c in every} == {"contiguous", "channels_last"}
        first = every[0]
        assert (first.model, first.mask, first.hidden, first.mode) == ("resnet50", "patches", 0.5, "eager")


@pytest.mark.parametrize("hidden", [0.0, 0.1, 0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("kind", ["patches", "block"])
def test_masks_hide_what_they_say(load: Load, kind: str, hidden: float) -> None:
    made = load("masks").MASKS[kind](6, hidden, torch.Generator().manual_seed(0))
    assert made.shape == (6, 1, 224, 224) and made.dtype == torch.bool
    assert (~made).double().mean((1, 2, 3)).tolist() == pytest.approx([hidden] * 6, abs=0.01)
    again = load("masks").MASKS[kind](6, hidden, torch.Generator().manual_seed(0))
    assert made.equal(again)
    if hidden > 0:
        assert not all(mask.equal(made[0]) for mask in made)
    if kind == "block" and hidden:
        for mask in ~made[:, 0]:
            rows, columns = mask.any(1), mask.any(0)
            assert mask.equal(rows[:, None] & columns)  # a rectangle
            assert (int(rows.diff().sum()) <= 2) and (int(columns.diff().sum()) <= 2)


def test_our_resnet50_is_that_of_torchvision(load: Load) -> None:
    from torchvision.models import resnet50

    ours, theirs = load("resnet").resnet50().eval(), resnet50(weights=None).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert ours(x).equal(theirs(x))


def test_a_model_whose_library_is_missing_is_left_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    models = load("models")
    with pytest.raises(models.NotHere, match="densenet121 is left out: import of torchvision"):
        models.build("densenet121")
    assert type(models.build("resnet50")).__module__ == "resnet"


# --- time ----------------------------------------------------------------------------------------------


def test_sides_take_turns_in_an_order_of_chance(load: Load) -> None:
    called: list[tuple[str, int]] = []
    sides = {name: lambda x, name=name: called.append((name, x)) for name in "abc"}
    timing = load("timing")
    times = timing.alternate(sides, lambda turn: [10 * turn, 10 * turn + 1], 4, timing.Deadline())
    assert {name: len(each) for name, each in times.wall.items()} == dict.fromkeys("abc", 4)
    rounds = [called[start : start + 6] for start in range(0, 24, 6)]
    for turn, one in enumerate(rounds):
        assert sorted(one) == [(name, 10 * turn + n) for name in "abc" for n in range(2)]
    assert len({tuple(name for name, _ in one) for one in rounds}) > 1


def test_a_deadline_ends_the_rounds_or_the_cell(load: Load) -> None:
    timing = load("timing")
    deadline = timing.Deadline()
    seen: list[int] = []

    def side(turn: int) -> None:
        seen.append(turn)
        if turn == 4:
            deadline.end = 0.0

    times = timing.alternate({"plain": side}, lambda turn: [turn], 9, deadline)
    assert seen == [0, 1, 2, 3, 4] and len(times.wall["plain"]) == 5
    with pytest.raises(timing.Late):
        timing.alternate({"plain": side}, lambda turn: [turn], 9, deadline)


def test_ratios_are_of_the_same_round(load: Load) -> None:
    timing = load("timing")
    times = {"plain": [1.0, 2.0, 4.0], "dense": [2.0, 2.0, 6.0]}
    assert timing.ratios(times, "dense") == [1.0, 1.5, 2.0]
    assert timing.spread([1.0, 1.5, 2.0]) == "1.50 (1.25–1.75)"
    assert timing.spread([1.5]) == "1.50"


# --- runs ----------------------------------------------------------------------------------------------


def test_a_cell_is_measured(small: Load) -> None:
    forward, timing = small("forward"), small("timing")
    found = forward.measure(cell(small), 2, timing.Deadline())
    assert set(found["wall"]) == {"plain", "grey fill", "dense", "sparse", "auto", "published"}
    assert all(len(times) == 2 and min(times) > 0 for times in found["wall"].values())
    assert found["errors"] == {} and not found["cut"] and found["visible"] == 0.5
    assert max(found["apart"].values()) < 1e-4 and set(found["apart"]) == {"sparse", "auto"}
    assert found["memory"]["plain"] == 2.0
    json.dumps(found)


def test_compiled_cells_have_the_sparse_engine_uncompiled_too(
    small: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, compiled = small("workload"), []
    monkeypatch.setattr(torch, "compile", lambda removal: compiled.append(removal) or removal)
    work = workload.Workload(cell(small, mode="compile"))
    sides = {name: work.side(name) for name in work.names()}
    assert set(sides) == {*workload.SIDES, workload.UNCOMPILED} and len(compiled) == len(workload.SIDES)


def test_a_side_that_fails_is_said_and_left_out(small: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, timing, workload = small("forward"), small("timing"), small("workload")

    def broken(model: nn.Module) -> nn.Module:
        raise RuntimeError("no such engine\nat all")

    monkeypatch.setitem(workload.SIDES, "sparse", broken)
    found = forward.measure(cell(small), 1, timing.Deadline())
    assert found["errors"] == {"sparse": "RuntimeError: no such engine"} and "sparse" not in found["wall"]
    monkeypatch.setitem(workload.SIDES, "plain", broken)
    with pytest.raises(RuntimeError, match="no such engine"):
        forward.measure(cell(small), 1, timing.Deadline())


def test_a_run_goes_on_where_it_stopped(
    small: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, timing, cells = small("forward"), small("timing"), small("cells")
    part = cells.Slice("some", hidden=(0.25, 0.5, 0.75), sizes=(("float32", 1),))
    monkeypatch.setitem(cells.GRID, "cpu", (part,))
    lines, measure, begun = small("lines").Lines(tmp_path), forward.measure, []

    def interrupted(one: Any, rounds: int, deadline: Any) -> dict[str, Any]:
        begun.append(one.hidden)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return measure(one, rounds, deadline)

    monkeypatch.setattr(forward, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forward.run(forward.chosen("cpu", "*", lines), lines, 1, timing.Deadline())
    with lines.path.open("a") as file:
        file.write('{"kind": "forward", "name": "cpu/resnet50/patches-75%/fl')  # and one that was cut short
    left = forward.chosen("cpu", "*", lines)
    assert [one.hidden for one in left] == [0.5, 0.75]
    assert [one.hidden for one in forward.chosen("cpu", "*-75%/*", lines)] == [0.75]
    assert forward.run(left, lines, 1, timing.Deadline()) == 2
    assert begun == [0.25, 0.5, 0.5, 0.75] and forward.chosen("cpu", "*", lines) == []
    assert "[2/2] cpu/resnet50/patches-75%/float32/b1/eager/contiguous plain" in capsys.readouterr().out
    assert len(forward.chosen("cpu", "*", lines, again=True)) == 3
    monkeypatch.setattr(small("lines"), "_engine", lambda kind: "another")
    assert len(forward.chosen("cpu", "*", lines)) == 3 and not forward.chosen("cpu", "*", lines, stale=True)


def test_a_limit_that_has_passed_begins_nothing(small: Load, tmp_path: Path) -> None:
    forward, timing, lines = small("forward"), small("timing"), small("lines").Lines(tmp_path)
    assert forward.run([cell(small)], lines, 1, timing.Deadline(0)) == 0 and not lines.path.exists()


@pytest.mark.filterwarnings("ignore:.*too few to tell them apart")
def test_lime_is_measured_end_to_end(small: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    explaining, timing, lines = small("explaining"), small("timing"), small("lines").Lines(tmp_path)
    setting = explaining.Setting("cpu", "float32", "eager", batch=4, samples=10)
    monkeypatch.setattr(explaining, "SIDES", {"plain": "plain", "layermask": "ours"})
    asked: list[int] = []
    forward_of = explaining.Clock.__call__

    def counted(self: Any, images: torch.Tensor, *visible: torch.Tensor) -> Any:
        asked.append(len(visible[0]) if visible else len(images))
        return forward_of(self, images, *visible)

    monkeypatch.setattr(explaining.Clock, "__call__", counted)
    explaining.run([setting], lines, 1, timing.Deadline())
    [line] = lines
    assert line["setting"]["samples"] == 10 and line["errors"] == {}
    # the warm-up asks four at a time, twice; then both ask for all ten, and ours for the whole picture
    assert sum(asked) == 2 * (4 + 5) + 10 + 11 and max(asked) == 4
    for side in ("plain", "layermask"):
        assert 0 <= line["outside"][side][0] < line["wall"][side][0]
    asked.clear()
    explaining.run([setting], lines, 1, timing.Deadline())
    assert asked == []  # it was done
    explaining.run([explaining.Setting("cpu", "float32", "eager", 5, 10)], lines, 1, timing.Deadline(0))
    assert len(list(lines)) == 1


# --- the page ------------------------------------------------------------------------------------------


def line(load: Load, one: Any, rounds: int = 3, **change: Any) -> dict[str, Any]:
    wall = {"plain": [0.1] * rounds, "dense": [0.11, 0.12, 0.13][:rounds], "sparse": [0.06] * rounds}
    wall["auto"] = [0.06] * rounds
    machine = {"device": one.device, "name": "A processor", "threads": 2, "torch": "2.11", "python": "3.12"}
    machine["commit"] = "abc1234"
    base = {"kind": "forward", "name": one.name, "machine": machine, "engine": "x", "date": "2026-01-02"}
    base |= {"load": 0.1, "cut": False, "cell": vars(one), "visible": 1 - one.hidden, "wall": wall}
    apart, errors = {"sparse": 2e-7, "auto": 1e-7}, {"published": "RuntimeError: why not"}
    memory = {"plain": 100.0, "dense": 110.0, "sparse": 60.0}
    return base | {"cpu": wall, "memory": memory, "apart": apart, "errors": errors} | change


def written(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[dict[str, Any]]) -> str:
    page = load("page")
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "benchmarks.md")
    page.PAGE.parent.mkdir(exist_ok=True)
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder, device in zip(folders, ("cpu", "cuda"), strict=True):
        folder.mkdir(exist_ok=True)
        those = [json.dumps(each) for each in lines if each["machine"]["device"] == device]
        (folder / "lines.jsonl").write_text("\n".join(those))
    page.write_all(folders)
    return page.PAGE.read_text(encoding="utf-8")


def test_without_a_gpu_its_rows_are_empty(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = load("cells").cells("cpu")
    text = written(load, monkeypatch, tmp_path, [line(load, one) for one in cells[:3]])
    assert "### CPU: A processor" in text and "2 threads, torch 2.11, Python 3.12, commit abc1234" in text
    assert "| 50% | eager | contiguous | 100.0 |  | 1.20 (1.15–1.25) | 0.60 (0.60–0.60) |" in text
    assert "| error |" in text and "Error of published in cpu/resnet50" in text
    gpu = text.partition("### GPU")[2].partition("## Peak memory")[0]
    rows = [row for row in gpu.splitlines() if row.startswith("| ") and "%" in row]
    assert len(rows) == 8 and all("Not measured: no GPU at hand |  |  |  |  |  |" in row for row in rows)
    assert not any(character.isdigit() for row in rows for character in row.partition("no GPU")[2])
    assert "| 100 |" in text.partition("## Peak memory")[2]


def test_lines_of_two_machines_make_one_page(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = load("cells")
    old = line(load, cells.cells("cpu")[0], wall={"plain": [9.0], "dense": [9.0]})
    lines = [old, line(load, cells.cells("cpu")[0]), line(load, cells.cells("cuda")[0])]
    lines[2]["machine"] |= {"name": "A GPU", "cuda": "13.0"}
    text = written(load, monkeypatch, tmp_path, lines)
    assert "### CPU: A processor" in text and "### GPU: A GPU" in text and "9000" not in text
    assert "no GPU at hand" not in text
    assert "| 50% | bfloat16 | 256 | eager | 100.0 |" in text
    assert "CUDA 13.0" in text and "Not measured yet: ResNet-50 (7 of 8 rows)" in text


def test_what_other_machines_measured_stays(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each page is written from the lines of one machine, of which the last two are of another torch each."""
    cells = load("cells").cells
    one, same, gpu = (line(load, cells(device)[0]) for device in ("cpu", "cpu", "cuda"))
    same["machine"] = {**same["machine"], "torch": "2.12"}
    gpu["machine"] |= {"name": "A GPU", "cuda": "13.0"}
    written(load, monkeypatch, tmp_path, [gpu])
    other = {**one, "machine": {**one["machine"], "name": "Another processor"}}
    assert "A processor" not in written(load, monkeypatch, tmp_path, [other])
    text = written(load, monkeypatch, tmp_path, [one, same])
    for section in ("## Forward pass", "## Peak memory"):
        part = text.partition(section)[2].partition("\n## ")[0]
        titles = [row for row in part.splitlines() if row.startswith("### ")]
        ours = ["### CPU: A processor"] * 2
        assert titles == [*ours, "### CPU: Another processor", "### GPU: A GPU"]
    assert "torch 2.11" in text and "torch 2.12" in text and "no GPU at hand" not in text
    assert text == written(load, monkeypatch, tmp_path, [one, same])


def test_other_sections_stay_and_unknown_ones_go(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = load("page")
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    page.PAGE.write_text("# Benchmarks\n\n## Long ago\n\nold\n\n## Start\n\nkept\n")
    page.write_section("ROAD's linear imputation", ["| a |"])
    text = page.PAGE.read_text(encoding="utf-8")
    assert "kept" in text and "Long ago" not in text and text.index("ROAD") < text.index("## Start")


def test_every_section_that_is_written_has_its_place(load: Load) -> None:
    order = load("page").ORDER
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    titles = [part.partition('"')[0] for part in text.split('write_section("')[1:]]
    assert set(titles) == set(order)


def test_the_cost_is_drawn(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = next(part for part in load("cells").GRID["cpu"] if part.title == load("cost").PART)
    text = written(load, monkeypatch, tmp_path, [line(load, one) for one in part.cells("cpu")])
    picture = (tmp_path / "docs" / "pictures" / "cost.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert "| 0.05 | 1.20 (1.15–1.25) | 0.60 (0.60–0.60) |" in text.partition("## Cost and visible part")[2]


# --- everything in one call ----------------------------------------------------------------------------


def test_all_builds_checks_and_times_the_most_important_first(
    small: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything, forward = small("all"), small("forward")
    began: list[str] = []
    monkeypatch.setattr(everything, "CHECKS", ("no_such_test.py",))
    monkeypatch.setattr(forward, "run", lambda wanted, *rest: began.extend(one.name for one in wanted))
    left = forward.chosen
    monkeypatch.setattr(forward, "chosen", lambda *x: [one for one in left(*x) if one.name not in began])
    monkeypatch.setattr(everything.explaining, "run", lambda *rest: began.append("lime"))
    monkeypatch.setattr(everything.start, "measure", lambda: {"wall": {"torch": [1.0]}})
    monkeypatch.setattr(sys, "argv", ["all.py", "--out", str(tmp_path), "--minutes", "1"])
    everything.main()
    said = capsys.readouterr().out
    assert "checks: left out, no no_such_test.py in tests/" in said and "no GPU at hand" in said
    goals = list(small("cells").GRID["cpu"][0].cells("cpu"))
    first, then = ([one.name for one in goals if one.mode == mode] for mode in ("eager", "compile"))
    assert began[: len(goals) + 1] == [*first, "lime", *then]
    assert sorted(began) == sorted(["lime", *(one.name for one in small("cells").cells("cpu"))])
    assert [each["kind"] for each in small("lines").Lines(tmp_path)] == ["build", "start"]


def test_all_runs_the_checks_it_finds(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything, lines = load("all"), load("lines").Lines(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sparse_some.py").write_text("def test_it():\n    assert False\n")
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    everything.check(lines, 100)
    [found] = lines
    assert not found["passed"] and "1 failed" in found["said"] and "1 failed" in capsys.readouterr().out
    everything.check(lines, 0.01)
    assert list(lines)[1]["said"] == "not finished in 0 s"
