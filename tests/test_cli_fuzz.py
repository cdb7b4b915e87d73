"""A few random calls, damaged folders and damaged inputs; `python tests/cli_fuzz.py` tries thousands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random

import cli_fuzz
import pytest
from cli_fuzz import BAD_MODELS, SLOW, World, ask, calls, fault, fuzz_calls, fuzz_folders, fuzz_inputs, within

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, sockets and alarms are POSIX")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path, home = list(sys.path), os.environ.get("HOME")
    yield cli_fuzz.make_world(tmp_path_factory.mktemp("world"))
    sys.path[:] = path
    os.environ.update({} if home is None else {"HOME": home})


def test_the_calls_that_are_changed_are_answered(world: World, tmp_path):
    for number, call in enumerate(calls(world)):
        (tmp_path / f"{number}").mkdir()
        with within(tmp_path / f"{number}"):
            status, said = (0, "") if call[0] in SLOW else ask(call)
        assert status == 0, said


def test_random_calls(world):
    found = fuzz_calls(world, 20, seed=7, without=SLOW)
    assert (found.tried, found.faults) == (20, [])


def test_damaged_folders_of_results(world):
    found = fuzz_folders(world, 14, seed=7)
    assert (found.tried, found.faults) == (14, []) and 0 < found.answered < 14


def test_damaged_inputs(world):
    found = fuzz_inputs(world, 14, seed=7)
    assert (found.tried, found.faults) == (14, []) and 0 < found.answered < 14


@pytest.mark.parametrize("name", BAD_MODELS.split())
def test_bad_models_are_refused_before_the_work(world, tmp_path, name):
    with within(tmp_path):
        call = ["predict", world.path("a.png"), "--mask", world.path("mask.png"), "--out", "out"]
        status, said = ask([*call, "--model", f"fuzz_models:{name}"])
    assert status == 2 and said.startswith("layermask: "), said
    assert "\n" not in said.strip()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "spec", ["fuzz_broken:f", "::", "..:f", ":f", "fuzz_models:", "fuzz_models:constant"]
)
@pytest.mark.parametrize("command", ["check", "export"])
def test_what_is_no_model_is_named(world, tmp_path, spec, command):
    with within(tmp_path):
        status, said = ask([command, spec])
    assert (status, repr(spec) in said) == (2, True), said


@pytest.mark.parametrize("name", ["leaves", "stops", "leaving", "raises", "words"])
def test_a_model_that_ends_the_program_ends_no_check(world, name):
    status, said = ask(["check", f"fuzz_models:{name}"])
    assert status == 2 and f"fuzz_models:{name}" in said


def test_a_model_that_ends_the_program_later_ends_no_command_well(world, tmp_path):
    with within(tmp_path):
        call = ["predict", world.path("a.png"), "--mask", world.path("mask.png"), "--out", "out"]
        status, said = ask([*call, "--model", "fuzz_models:later"])
    assert status == 1 and "layermask: SystemExit: 0" in said.splitlines()[-1]


def test_a_model_without_names_gets_numbers(world, tmp_path):
    with within(tmp_path):
        call = ["predict", world.path("a.png"), "--mask", world.path("mask.png"), "--against", "none"]
        status, said = ask([*call, "--model", "fuzz_models:unnamed"])
    assert status == 0 and "class 1" in said


# The judge itself


def test_the_judge_takes_answers_and_refusals_that_name_the_cause():
    call = ["segments", "a.png", "--segments", "grid:0"]
    assert fault(call, ["--segments", "grid:0"], 0, "") is None
    assert fault(call, ["--segments", "grid:0"], 2, "layermask: grid cells of 0 pixels") is None
    assert fault(call, ["a.png"], 2, "layermask: image a.png does not exist") is None


WRONG = [
    (1, "layermask: ValueError: grid"),
    (2, "layermask: bad"),
    (130, "interrupted"),
    (2, "Traceback --segments"),
    (-2, ""),
]


@pytest.mark.parametrize(("status", "said"), WRONG)
def test_the_judge_notices(status, said):
    assert fault(["segments", "a.png", "--segments", "grid:0"], ["grid:0"], status, said)


def test_a_call_that_hangs_is_a_fault(world, tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(cli_fuzz, "SECONDS", 1)
    monkeypatch.setattr("layermask.data.images.load_image", lambda path, **more: time.sleep(9))
    status, _ = ask(["segments", world.path("a.png"), "--out", str(tmp_path)])
    assert status == 130


def test_results_that_differ_without_a_word_are_a_fault(world, monkeypatch):
    """Believe every shard, and double one: the fuzzer sees rows that are not those of the first run."""
    from layermask.studies import store

    def doubled(path: Path, draw: Random) -> str:
        folder = path.parent if (path.parent / "shards").exists() else path.parent.parent
        cli_fuzz.TABLES[0](folder / "shards" / "000001.parquet", draw)
        return "doubled"

    finished = {"shape": cli_fuzz.results(world)["shape"]}
    monkeypatch.setattr(cli_fuzz, "results", lambda world: finished)
    monkeypatch.setattr(cli_fuzz, "_damage", doubled)
    assert fuzz_folders(world, 3, seed=1).faults == []
    monkeypatch.setattr(store, "_checksum", lambda table, content: content.get("sha256"))
    monkeypatch.setattr(store, "_told", lambda table: json.loads(table.schema.metadata[store.KEY]))
    monkeypatch.setattr(store, "_check_rows", lambda table, columns, keys: None)
    faults = fuzz_folders(world, 3, seed=1).faults
    assert faults and all("without a word" in line for line in faults)
