"""One opener for all files, `~`, names that are no text, and what killed runs leave behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import refused, run

from layermask.data.files import read_table
from layermask.data.images import load_image, load_labels, load_mask
from layermask.errors import InputError, ModelError, out_of_memory, printable
from layermask.io.atomic import (
    check_outputs,
    clear_parts,
    exists,
    expanded,
    is_file,
    is_folder,
    output_folder,
    read_json,
    write_all,
)
from layermask.io.record import sha256, to_json
from layermask.studies import read_results
from layermask.zoo.weights import read_state

posix = pytest.mark.skipif(os.name == "nt", reason="there are no such files")

READERS = {
    "image": load_image,
    "mask": load_mask,
    "label map": load_labels,
    "weights": read_state,
    "json": lambda path: read_json(path, "record"),
    "table": read_table,
    "sha256": sha256,
    "results": read_results,
}


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def plug(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(before)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def nowhere(path: Path) -> Path:
    path.symlink_to("not-there")
    return path


def below(path: Path) -> Path:
    path.write_text("a file")
    return path / "below.png"


def broken(path: Path) -> Path:
    path.write_bytes(b"\x93NUMPY\x01\x00PK\x03\x04{" + bytes(range(256)))
    return path


ODD = {
    "pipe": pipe,
    "socket": plug,
    "device": lambda path: Path("/dev/zero"),
    "loop": loop,
    "link to nothing": nowhere,
    "long": lambda path: path.with_name("x" * 300),
    "below a file": below,
    "not there": lambda path: path,
    "no text": lambda path: Path(os.fsdecode(os.fsencode(path) + b"\xff")),
    "broken": broken,
}


@posix
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_what_cannot_be_read_is_refused_at_once_and_named(tmp_path, kind, reader):
    if (kind, reader) == ("broken", "sha256"):
        return  # any bytes have a checksum
    path = ODD[kind](tmp_path / "odd.png")
    with pytest.raises(InputError) as caught:
        READERS[reader](path)
    message = str(caught.value)
    assert path.name[:20] in message or printable(path.name) in message
    assert "\n" not in message and message.encode()


@posix
def test_a_folder_goes_on_after_what_is_no_picture(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for make in (pipe, plug, loop, nowhere, broken):
        make(folder / f"{make.__name__}.png")
    for name in (b"a.png", b"bad\xff.png", b"z.png"):
        with Path(os.fsdecode(os.fsencode(folder / "_")[:-1] + name)).open("wb") as file:
            Image.new("RGB", (48, 40)).save(file, "PNG")
    result = run("segments", folder, "--segments", "grid:16", "--out", tmp_path / "out", status=2)
    assert "5 of 8 pictures failed" in result.stderr
    names = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert {b"a_segments.npy", b"bad\xff_segments.npy", b"z_segments.png"} <= names and len(names) == 6


def test_names_that_are_no_text_can_be_printed():
    assert printable("bad\udcff.png\x1b[2J\n") == "bad\\udcff.png\\x1b[2J\n"
    assert str(InputError("image \udcff")) == "image \\udcff"
    assert json.loads(to_json({"file": "bad\udcff é"}).encode()) == {"file": "bad\udcff é"}


@pytest.mark.parametrize("question", [exists, is_file, is_folder])
def test_questions_about_any_name_have_an_answer(tmp_path, question):
    for name in ("x" * 300, "a\0b", "none", "\udcff"):
        assert question(tmp_path / name) is False
    (tmp_path / "file").touch()
    assert [question(tmp_path / "file"), question(tmp_path)] == {
        exists: [True, True],
        is_file: [True, False],
        is_folder: [False, True],
    }[question]


# ~


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@posix
def test_home_is_one_folder_for_every_path_option(home):
    picture, mask = Image.new("RGB", (48, 40), "red"), Image.new("1", (48, 40), 1)
    picture.save(home / "a.png")
    mask.save(home / "m.png")
    np.save(home / "labels.npy", np.arange(48 * 40).reshape(40, 48) // 480)
    (home.parent / "here" / "own_home.py").write_text("from test_evaluate import five\n")
    own = ["--model", "own_home:five", "--against", "none", "--out=~/out"]
    run("segments", "~/a.png", "--segments", "grid:16", "--out=~/out")
    run("predict", "~/a.png", "--mask=~/m.png", *own)
    run("explain", "~/a.png", "--segments=~/labels.npy", "--samples", "8", "--report=~/page.html", *own)
    assert (home / "page.html").exists() and len(list((home / "out").iterdir())) == 6
    assert [path.name for path in Path.cwd().iterdir() if path.name != "__pycache__"] == ["own_home.py"]
    assert "~" not in refused("plot", "~/none")


def test_a_user_that_is_not_there_is_a_name(home):
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")
    assert output_folder("~/deep/er") == home / "deep" / "er"


# What killed runs leave


def dead() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@posix
def test_the_parts_of_runs_that_are_gone_are_removed_and_no_others(tmp_path):
    names = [f".a.png.{dead()}.part", f".b.png.{os.getppid()}.part", ".part", ".c.12x.part", "d.5.part"]
    for name in names:
        (tmp_path / name).touch()
    output_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@posix
def test_a_part_with_the_number_of_this_process_is_left_only_if_it_is_newer(tmp_path):
    old, new = tmp_path / f".old.{os.getpid()}.part", tmp_path / f".new.{os.getpid()}.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    clear_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]
    clear_parts(tmp_path / "not-there")


@posix
@pytest.mark.parametrize("place", ["", "deep/er"])
def test_every_command_clears_where_it_writes(tmp_path, place):
    picture, out = tmp_path / "in" / place / "a.png", tmp_path / "out"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (48, 40)).save(picture)
    (out / place).mkdir(parents=True)
    part = out / place / f".other.png.{dead()}.part"
    part.touch()
    run("segments", tmp_path / "in", "--segments", "grid:16", "--out", out)
    assert not part.exists()


def test_a_write_that_fails_names_the_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*taken: "):
        write_all({tmp_path / "taken": b"x"})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("x" * 255)
    write_all({path: b"x"})
    assert [each.name for each in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"x"


@posix
@pytest.mark.parametrize("name", ["x" * 256, f"new/{'x' * 256}", f"new/{'x' * 256}/a", "x/" * 2100 + "x"])
def test_a_name_that_is_too_long_is_named(tmp_path, name):
    for check in (lambda: check_outputs(tmp_path, [name]), lambda: write_all({tmp_path / name: b"x"})):
        with pytest.raises(InputError, match=r"(File name too long|No such file or directory)$") as caught:
            check()
        assert str(caught.value).startswith(f"cannot write {tmp_path / name}: "[:900])  # errors are cut off
    assert not list(tmp_path.iterdir())


def test_names_are_checked_before_anything_is_there(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    check_outputs(tmp_path, ["file", "new", "new/er/x"])
    for name, why in (("taken", "there is a folder of that name"), ("file/x", "Not a directory")):
        with pytest.raises(InputError, match=rf"cannot write .*{name}: {why}"):
            check_outputs(tmp_path, [name])


# Memory


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError(1, 0) if hasattr(np, "exceptions") else ValueError(), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_is(error, ran_out):
    assert out_of_memory(error) is ran_out


def test_out_of_memory_names_what_can_be_made_smaller(tmp_path, monkeypatch):
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError

    Image.new("RGB", (48, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr("layermask.segment.segmenters.Grid.__call__", hungry)
    message = refused("segments", tmp_path / "a.png", "--out", tmp_path, status=1)
    assert message == "out of memory: give a smaller picture, or fewer --segments"
    monkeypatch.chdir(tmp_path)
    Path("own_memory.py").write_text("from test_evaluate import five\n")
    monkeypatch.setattr("layermask.check.check", hungry)
    message = refused("check", "own_memory:five", "--size", "64", status=1)
    assert message == "out of memory: give a smaller --size"


def test_weights_are_refused_as_a_model_is(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        read_state(tmp_path)
