"""Runs that are stopped, in every way, end with the table of an unbroken run; and the command."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import refused
from test_cli import run as command
from test_evaluate import five, make_pictures

from layermask.data import open_source
from layermask.data.images import load_image
from layermask.errors import ImageError, InputError
from layermask.io import atomic as files
from layermask.studies import SegmentStudy, Store, read_results, run, runner
from layermask.studies.lock import locked
from layermask.studies.segments.figure import sheet
from layermask.studies.store import KEY, changes
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

EXPERIMENT = SegmentStudy(("layermask", "greyout"), ("grid:8",), ("random", "salient-first"))


@pytest.fixture
def data(tmp_path) -> Path:
    return make_pictures(tmp_path / "data", 10)


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), Preprocessing((36, 36), (32, 32)), numbered(5), "five")


@pytest.fixture
def reference(data, loaded, tmp_path) -> bytes:
    return run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference").results.read_bytes()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(runner, "SHARD_IMAGES", 2)


class Stop(Exception):
    pass


def stopping_after(count: int) -> SegmentStudy:
    """The experiment, ending with an error when so many pictures are done."""

    done: list[str] = []

    class Stopping(SegmentStudy):
        def rows(self, scene, loaded, device, batch_size):
            if len(done) == count:
                raise Stop
            done.append(scene.sample.name)
            return super().rows(scene, loaded, device, batch_size)

    values = {f.name: getattr(EXPERIMENT, f.name) for f in dataclasses.fields(EXPERIMENT) if f.init}
    return Stopping(**values)


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_an_error_loses_nothing(count, data, loaded, reference, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Stop):
        run(stopping_after(count), loaded, open_source(data), out)
    assert not (out / "results.parquet").exists()
    left: list[int] = []
    store = run(EXPERIMENT, loaded, open_source(data), out, progress=noting(left))
    assert left == [10 - count]
    assert store.results.read_bytes() == reference


def noting(left: list[int]):
    from contextlib import nullcontext

    return lambda store, count: left.append(count) or nullcontext(lambda done: None)


def test_a_finished_run_is_not_done_again(data, loaded, reference, tmp_path):
    left: list[int] = []
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference", progress=noting(left))
    assert (left, store.results.read_bytes()) == ([0], reference)


SLOW = """
import time, torch
from test_evaluate import five as plain
from layermask.zoo import Loaded, Preprocessing
from layermask.data.images import load_image
from layermask.zoo.labels import numbered
def slow():
    model = plain()
    model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    return Loaded(model, Preprocessing((36, 36), (32, 32)), numbered(5), "slow")
"""
ARGUMENTS = ["--model", "slow_model:slow", "--removals", "layermask,greyout", "--segments", "grid:8"]
ARGUMENTS += ["--orders", "random,salient-first", "--device", "cpu", "--batch-size", "8"]


@pytest.fixture
def slow_model(tmp_path, monkeypatch) -> Path:
    (tmp_path / "slow_model.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_model", raising=False)
    return tmp_path


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {here!r})\n"
        "from layermask.studies import runner; runner.SHARD_IMAGES = 2\n"
        "from layermask.cli import main; main()"
    )
    arguments = ["evaluate", "segments", "--data", str(data), *ARGUMENTS, "--out", str(out)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(list((out / "shards").glob("*.parquet"))) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "no shard after a minute"
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_sigkill_at_any_moment(data, slow_model):
    """Killed twice, once after a time by chance; then it goes on and the tables are the same bytes."""
    arguments = ["evaluate", "segments", "--data", data, *ARGUMENTS, "--quiet"]
    command(*arguments, "--out", "whole")
    out = slow_model / "out"
    for shards, pause in ((1, 0.0), (2, random.uniform(0, 0.3))):
        with start(data, out) as process:
            try:
                wait_for_shards(out, shards, process)
                time.sleep(pause)
            finally:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "killed at work"
        assert not (out / "results.parquet").exists()
    done = 2 * len(list((out / "shards").glob("*.parquet")))
    assert 4 <= done < 10
    result = command(*arguments[:-1], "--out", out)
    assert f"{done} of 10 images were done by an earlier run" in result.stderr
    assert (out / "results.parquet").read_bytes() == Path("whole/results.parquet").read_bytes()
    assert not list(out.rglob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_two_runs_in_one_folder(data, slow_model):
    out = slow_model / "out"
    with start(data, out) as process:
        wait_for_shards(out, 1, process)
        try:
            message = refused("evaluate", "segments", "--data", data, *ARGUMENTS, "--out", out, "--quiet")
        finally:
            process.kill()
        assert f"another run (process {process.pid}) is writing into {out}: wait for it" in message
    command("evaluate", "segments", "--data", data, *ARGUMENTS, "--out", out, "--quiet")


def stopped(data: Path, loaded: Loaded, out: Path, count: int = 7) -> list[Path]:
    with pytest.raises(Stop):
        run(stopping_after(count), loaded, open_source(data), out)
    return sorted((out / "shards").glob("*.parquet"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # within the first page: only its checksum can tell
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), path)


def rewrite(path: Path, change) -> None:
    """Change the rows and keep what the file says of itself, as no damage of a disk does."""
    import pyarrow.parquet as pq

    pq.write_table(change(pq.read_table(path)), path)


def twice(path: Path) -> None:
    import pyarrow as pa

    rewrite(path, lambda table: pa.concat_tables([table, table]))


def fewer(path: Path) -> None:
    rewrite(path, lambda table: table.slice(1))


def narrower(path: Path) -> None:
    rewrite(path, lambda table: table.drop_columns(["order"]))


def otherwise(path: Path) -> None:
    import pyarrow as pa

    rewrite(
        path,
        lambda table: pa.Table.from_pylist([{**row, "label": 0} for row in table.to_pylist()], table.schema),
    )


def without_checksum(path: Path, change=lambda table: table) -> None:
    """Write the file as versions before checksums did."""
    import json

    def old(table):
        told = json.loads(table.schema.metadata[KEY])
        told.pop("sha256")
        return change(table).replace_schema_metadata({KEY: json.dumps(told).encode()})

    rewrite(path, old)


def old_and_twice(path: Path) -> None:
    import pyarrow as pa

    without_checksum(path, lambda table: pa.concat_tables([table, table]))


def old_and_narrower(path: Path) -> None:
    without_checksum(path, lambda table: table.drop_columns(["order"]))


CHANGES = [twice, fewer, narrower, otherwise, old_and_twice, old_and_narrower]


@pytest.mark.parametrize("damage", [cut, flip, empty, another, *CHANGES])
def test_a_damaged_shard_is_done_again(damage, data, loaded, reference, tmp_path):
    shards = stopped(data, loaded, tmp_path / "out")
    damage(shards[1])
    left: list[int] = []
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "out", progress=noting(left))
    assert (store.damaged, left) == ([shards[1]], [5])
    assert store.results.read_bytes() == reference


def test_a_shard_of_before_checksums_is_read(data, loaded, reference, tmp_path):
    without_checksum(stopped(data, loaded, tmp_path / "out")[1])
    left: list[int] = []
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "out", progress=noting(left))
    assert (store.damaged, left) == ([], [3])
    assert store.results.read_bytes() == reference


def test_a_shard_that_is_there_twice_counts_once(data, loaded, reference, tmp_path):
    shards = stopped(data, loaded, tmp_path / "out")
    shutil.copy(shards[0], shards[0].with_name("000077.parquet"))
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "out")
    assert (store.damaged, store.results.read_bytes() == reference) == ([], True)


@pytest.mark.parametrize("damage", [twice, fewer, narrower, otherwise, old_and_twice, old_and_narrower])
def test_damaged_results_are_refused_by_plot(damage, reference, tmp_path):
    path = tmp_path / "reference" / "results.parquet"
    damage(path)
    with pytest.raises(InputError, match=r"results.parquet cannot be read: .*; run layermask evaluate again"):
        read_results(path)
    path.write_bytes(reference)
    without_checksum(path)
    assert len(read_results(path)[0]["image"]) == 10 * 2 * 2 * 11


TEXTS = ["null", "5", "[]", '"x"', "[" * 99999, "{ half", "\udcff"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:6])
@pytest.mark.parametrize("name", ["settings.json", "shards/images.json"])
def test_damaged_settings_are_refused_and_named(name, text, data, loaded, reference, tmp_path):
    path = tmp_path / "reference" / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=rf"{path.name} cannot be read: .*another --out, or --force"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference")
    assert (tmp_path / "reference" / "results.parquet").read_bytes() == reference
    again = run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference", force=True)
    assert again.results.read_bytes() == reference


@pytest.mark.parametrize(
    "name", ["shards", "shards/000009.parquet", "settings.json", ".lock", "results.parquet"]
)
def test_a_folder_in_the_place_of_a_file_is_named(name, data, loaded, reference, tmp_path):
    place = tmp_path / "reference" / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if name == "shards":
        place.touch()
    else:
        (place / "deep").mkdir(parents=True)
    with pytest.raises(InputError, match=Path(name).name):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference")


class Engined:
    """A removal that says which engine answers."""

    engine_used = "dense"

    def __init__(self, model) -> None:
        self.model = model

    def __call__(self, images, visible):
        return self.model(images.expand(len(visible), -1, -1, -1) * visible)


def engined(engine: str) -> SegmentStudy:
    def operator(name, loaded, segments):
        made = Engined(loaded.model)
        made.engine_used = engine
        return made

    return SegmentStudy(("mine",), ("grid:8",), operator=operator)


def test_the_engine_is_kept_and_another_one_is_said(data, loaded, tmp_path):
    import json

    out, few = tmp_path / "out", open_source(data).pick(4, 3)
    settings = out / "settings.json"
    assert run(engined("dense"), loaded, few, out).settings["engine_used"] == "dense"
    run(engined("dense"), loaded, open_source(data).pick(6, 3), out)
    message = "the engine that answers here is sparse, and it was dense for the images done before"
    with pytest.warns(UserWarning, match=message) as said:
        run(engined("sparse"), loaded, open_source(data), out)
    assert sum("engine" in str(each.message) for each in said) == 1
    assert json.loads(settings.read_text())["engine_used"] == "dense, then sparse"
    assert read_results(out)[1]["settings"]["engine_used"] == "dense, then sparse"
    run(engined("dense"), loaded, open_source(data), out)  # nothing was left to ask


def test_half_written_files_are_cleared_away(data, loaded, reference, tmp_path):
    shards = stopped(data, loaded, tmp_path / "out")
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    part = shards[0].with_name(f".0000000-0000001.parquet.{killed.pid}.part")
    part.write_bytes(b"half")
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "out")
    assert not part.exists()
    assert store.results.read_bytes() == reference


def test_other_settings_are_refused_and_named(data, loaded, reference, tmp_path):
    out, source = tmp_path / "reference", open_source(data)
    other = dataclasses.replace(EXPERIMENT, seed=3, removals=("layermask",))
    message = r'removals was \["layermask", "greyout"\] and is \["layermask"\]; seed was 0 and is 3\)'
    with pytest.raises(InputError, match=f"holds the results of other settings.*{message}.*--force"):
        run(other, loaded, source, out)
    *some, last = source.samples[1:6]
    others = dataclasses.replace(source, samples=(*some, dataclasses.replace(last, name="other.png")))
    with pytest.raises(
        InputError, match=r"6 of 10 images are not among the 5 now: 0.png, 5.png, 6.png, ...\)"
    ):
        run(EXPERIMENT, loaded, others, out)
    trained = dataclasses.replace(loaded, model=five())
    next(trained.model.parameters()).data += 1
    with pytest.raises(InputError, match=r"\(model.parameters was [0-9a-f]+\.\.\. and is [0-9a-f]+\.\.\.\)"):
        run(EXPERIMENT, trained, source, out)
    assert (out / "results.parquet").read_bytes() == reference
    assert len(set(read_results(run(other, loaded, source, out, force=True).folder)[0]["removal"])) == 1
    assert run(EXPERIMENT, loaded, source, out, force=True).results.read_bytes() == reference


def test_another_batch_size_may_go_on(data, loaded, tmp_path):
    stopped(data, loaded, tmp_path / "out")
    run(EXPERIMENT, loaded, open_source(data), tmp_path / "out", batch_size=5)


def test_settings_that_cannot_be_read(data, loaded, reference, tmp_path):
    (tmp_path / "reference" / "settings.json").write_text("{ half")
    with pytest.raises(InputError, match=r"settings.json cannot be read"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference")
    (tmp_path / "reference" / "settings.json").unlink()
    with pytest.raises(InputError, match=r"settings.json is missing"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "reference")


def test_a_run_without_rows_binds_to_nothing(data, loaded, reference, tmp_path):
    """Killed before its first shard, maybe between its two files of settings."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text("{ half")
    assert run(EXPERIMENT, loaded, open_source(data), out).results.read_bytes() == reference
    (out / "shards" / "images.json").unlink()
    with pytest.raises(InputError, match=r"images.json is missing"):
        run(EXPERIMENT, loaded, open_source(data), out)


def test_changes_are_named_by_their_path():
    assert changes({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2], "d": "x"}}) == [
        "a.c was [1] and is [2]",
        "a.d was not set and is x",
    ]
    assert changes({"a": "y" * 99}, {"a": None}) == [f"a was {'y' * 57}... and is not set"]


def test_a_full_disk_loses_nothing(data, loaded, reference, tmp_path, monkeypatch):
    written, whole = [], Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".part" and content.startswith(b"PAR1"):
            written.append(path)
            if len(written) > 2:
                path.touch()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return whole(path, content)

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"No space left on device; the 4 images done before are kept"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "out")
    monkeypatch.setattr(files.Path, "write_bytes", whole)
    assert not list((tmp_path / "out").rglob("*.part"))
    left: list[int] = []
    store = run(EXPERIMENT, loaded, open_source(data), tmp_path / "out", progress=noting(left))
    assert (left, store.results.read_bytes()) == ([6], reference)


def test_a_folder_that_cannot_be_written(data, loaded, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot write in the folder"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "file" / "out")


def test_unreadable_images_are_skipped_only_if_asked(data, loaded, tmp_path):
    whole = read_results(run(EXPERIMENT, loaded, open_source(data), tmp_path / "whole").folder)[0]
    shutil.copy(data / "3.png", tmp_path)
    (data / "3.png").write_bytes(b"no picture")
    out, source = tmp_path / "out", open_source(data)
    with pytest.raises(ImageError, match=r"3.png is not an image.*--skip-unreadable"):
        run(EXPERIMENT, loaded, source, out)
    left: list[int] = []
    run(EXPERIMENT, loaded, source, out, skip_unreadable=True, progress=noting(left))
    found, content = read_results(out)
    assert left == [7]
    assert (content["images"], len(content["skipped"])) == (9, 1)
    assert "3.png is not an image" in content["skipped"][0]
    kept = whole["image"] != "3.png"
    assert all((found[name] == whole[name][kept]).all() for name in whole)


def test_no_usable_image(data, loaded, tmp_path):
    for path in data.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no usable images, all 10 were skipped: .*0.png is not an image"):
        run(EXPERIMENT, loaded, open_source(data), tmp_path / "out", skip_unreadable=True)


def test_results_that_are_not_there(data, loaded, reference, tmp_path):
    with pytest.raises(InputError, match=r"there are no results .*: let layermask evaluate finish"):
        read_results(tmp_path)
    for damage in (flip, another, cut):
        path = tmp_path / "reference" / "results.parquet"
        path.write_bytes(reference)
        damage(path)
        with pytest.raises(InputError, match=r"cannot be read: .*; run layermask evaluate again"):
            read_results(path)


def test_a_store_alone(tmp_path):
    images = dict.fromkeys("abcd", "mark")
    with Store.open(tmp_path / "new", {"a": 1}, {"x": "int32"}, images) as store:
        store.add({"c": [{"x": 20}, {"x": 21}], "a": [{"x": 1}]}, {"b": "bad"})
        assert store.left() == ["d"]
        store.add({"d": [{"x": 30}]}, {})
        with (
            pytest.raises(InputError, match="another run"),
            Store.open(tmp_path / "new", {"a": 1}, {"x": "int32"}, images),
        ):
            pass
        store.finish()
    found, content = read_results(tmp_path / "new")
    assert found["x"].tolist() == [1, 20, 21, 30]
    assert content == {
        "settings": {"a": 1, "engine_used": None},
        "images": 3,
        "skipped": ["bad"],
        "classes": [],
    }


# More or fewer pictures


def limited(limit: int | None, data: Path, loaded: Loaded, out: Path, **options) -> tuple[bytes, int]:
    """Run with so many pictures; return the table, and how many pictures were asked about."""
    left: list[int] = []
    source = open_source(data).pick(limit, 3)
    store = run(EXPERIMENT, loaded, source, out, progress=noting(left), **options)
    return store.results.read_bytes(), left[0]


def test_more_pictures_extend_a_run_and_fewer_select_from_it(data, loaded, tmp_path):
    """The table is to the byte that of a run with as many pictures, and nothing is asked about twice."""
    alone = {limit: limited(limit, data, loaded, tmp_path / f"{limit}")[0] for limit in (4, 7, None)}
    for steps in (((4, 4), (7, 3), (4, 0), (None, 3), (7, 0), (None, 0)), ((None, 10), (4, 0), (7, 0))):
        out = tmp_path / f"from-{steps[0][0]}"
        for limit, asked in steps:
            assert limited(limit, data, loaded, out) == (alone[limit], asked)


def test_a_stopped_run_may_be_extended(data, loaded, reference, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Stop):
        run(stopping_after(3), loaded, open_source(data).pick(6, 3), out)
    assert limited(None, data, loaded, out) == (reference, 7)


def test_a_smaller_run_takes_nothing_from_a_larger_one_that_stopped(data, loaded, reference, tmp_path):
    out, few = tmp_path / "out", {sample.name for sample in open_source(data).pick(4, 3)}
    with pytest.raises(Stop):
        run(stopping_after(6), loaded, open_source(data), out)
    common = sum(sample.name in few for sample in open_source(data)[:6])
    assert limited(4, data, loaded, out)[1] == 4 - common
    assert limited(None, data, loaded, out) == (reference, 10 - 6 - (4 - common))


def test_pictures_that_are_skipped_belong_to_runs_that_ask_for_them(data, loaded, tmp_path):
    few = {sample.name for sample in open_source(data).pick(4, 3)}
    bad = next(sample.name for sample in open_source(data) if sample.name not in few)
    (data / bad).write_bytes(b"no picture")
    out = tmp_path / "out"
    for limit, images, skipped in ((None, 9, 1), (4, 4, 0), (None, 9, 1)):
        limited(limit, data, loaded, out, skip_unreadable=True)
        content = read_results(out)[1]
        assert (content["images"], len(content["skipped"])) == (images, skipped)


def test_a_picture_that_changed_is_refused(data, loaded, reference, tmp_path):
    out = tmp_path / "reference"
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("3.png,3", "3.png,1"))
    message = r"1 images or what belongs to them have changed: 3.png\)"
    with pytest.raises(InputError, match=message):
        run(EXPERIMENT, loaded, open_source(data), out)
    few = dataclasses.replace(open_source(data), samples=open_source(data).samples[:3])
    run(EXPERIMENT, loaded, few, out)  # not among these: it is out of sight, and not believed when it is back
    left: list[int] = []
    found = read_results(run(EXPERIMENT, loaded, open_source(data), out, progress=noting(left)).folder)[0]
    assert left == [1] and set(found["label"][found["image"] == "3.png"]) == {1}
    assert len(found["image"]) == len(read_results(out)[0]["image"]) == 10 * 2 * 2 * 11


def test_a_picture_listed_twice_is_refused(data, loaded, tmp_path):
    source = open_source(data)
    twice = dataclasses.replace(source, samples=(*source.samples, source.samples[2]))
    with pytest.raises(InputError, match=r"lists image 2.png twice: list it once"):
        run(EXPERIMENT, loaded, twice, tmp_path / "out")


def test_force_starts_over_also_with_the_same_settings(data, loaded, reference, tmp_path):
    left: list[int] = []
    out = tmp_path / "reference"
    store = run(EXPERIMENT, loaded, open_source(data), out, force=True, progress=noting(left))
    assert (left, store.results.read_bytes()) == ([10], reference)


# The command


def test_the_command(data, slow_model):
    result = command("evaluate", "segments", "--data", data, *ARGUMENTS, "--limit", "4", "--seed", "1")
    assert "10 images, 10 with label" not in result.stdout
    assert "folder" in result.stdout and "4 images" in result.stdout
    assert "4/4" in result.stderr
    assert "| layermask | grid:8       | random        | random " in result.stdout
    assert "salient orders follow the plain model's input gradient" in result.stdout
    found, content = read_results("evaluation")
    assert len(found["image"]) == 4 * 2 * 2 * 11
    assert content["settings"]["seed"] == 1
    assert "wrote evaluation/results.parquet" in result.stdout
    result = command("evaluate", "segments", "--data", data, *ARGUMENTS, "--limit", "4", "--seed", "1", "-q")
    assert result.output == ""


def test_what_the_command_refuses(data, slow_model):
    ask = ("evaluate", "segments", "--quiet", "--data")
    assert "does not exist: give a folder" in refused(*ask, "nowhere")
    assert "unknown kind of data" in refused(*ask, data, "--kind", "imagnet")
    assert "unknown removal 'gray'" in refused(*ask, data, "--removals", "gray")
    assert "unknown order" in refused(*ask, data, "--orders", "upside-down")
    assert "batch size '0'" in refused(*ask, data, *ARGUMENTS[:-1], "0")
    assert not Path("evaluation").exists()


def test_the_command_halves_batches_when_memory_runs_out(data, slow_model, monkeypatch):
    from layermask.removal.painting import Greyout

    forward = Greyout.painted

    def tight(self, images, visible):
        if len(visible) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, images, visible)

    monkeypatch.setattr(Greyout, "painted", tight)
    few = ["--model", "slow_model:slow", "--removals", "greyout", "--segments", "grid:8", "--limit", "2"]
    result = command("evaluate", "segments", "--data", data, *few, "--device", "cpu")
    assert result.stderr.count("out of memory: retrying with at most 2 masks per forward pass") == 1
    few += ["--batch-size", "9", "--out", "other", "--quiet"]
    assert "out of memory: give a smaller" in refused("evaluate", "segments", "--data", data, *few, status=1)


def test_lists_of_names_keep_the_parameters_of_segmenters():
    from layermask.cli.evaluate import names

    assert names(
        "grid, slic:n_segments=50,sigma=1,quickshift:3,max_dist=9,boxes:0,0,9,9;1,1,2,2", "--segments"
    ) == (
        "grid",
        "slic:n_segments=50,sigma=1",
        "quickshift:3,max_dist=9",
        "boxes:0,0,9,9;1,1,2,2",
    )


def test_the_help_names_every_kind_and_order():
    from layermask.data import DATA_SOURCES
    from layermask.studies.orders import ORDERS

    text = " ".join(command("evaluate", "segments", "--help").stdout.replace("│", " ").split())
    assert all(name in text for name in (*DATA_SOURCES, *ORDERS))


def test_plot_needs_the_results_alone(data, loaded, reference, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "results.parquet").write_bytes(reference)
    result = command("plot", tmp_path / "alone")
    assert "| greyout   | grid:8 " in result.stdout
    table = (tmp_path / "alone" / "results.md").read_text()
    assert "10 images of folder:data" in table and "## Areas under the curves" in table
    lines = (tmp_path / "alone" / "curves.csv").read_text().splitlines()
    assert lines[0].startswith("removal,segmentation,order,ranking,images,fraction,accuracy,accuracy low,")
    assert len(lines) == 1 + 2 * 2 * 11
    assert lines[1].startswith("layermask,grid:8,random,random,10,0,") and lines[1].endswith(",1.000000")
    axes = sheet(*read_results(tmp_path / "alone")).axes
    assert len(axes) == 2 * 3 and all(len(each.get_yticks()) > 3 and len(each.lines) == 2 for each in axes)
    picture = load_image(tmp_path / "alone" / "results.png")
    assert picture.width > 1500 and picture.height > 900
    command("plot", tmp_path / "alone" / "results.parquet", "--out", tmp_path / "else")
    assert (tmp_path / "else" / "results.png").read_bytes() == (tmp_path / "alone/results.png").read_bytes()
    assert "there are no results" in refused("plot", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are not of this system")
@pytest.mark.parametrize("name", [".owner", ".lock"])
def test_a_pipe_in_place_of_the_lock_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with (
        locked(tmp_path),
        pytest.raises(InputError, match="another run"),
        locked(tmp_path),
    ):
        pass
