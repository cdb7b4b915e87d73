"""Compiled kernels are built aloud, kept for their user alone, and loaded if nobody else could write them.

A script stands in for the compiler where only the protocol counts: it delivers a library built before.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

import layermask
from layermask.kernels import build, cache, loader
from layermask.kernels.loader import Found, find

REAL = loader.found()
pytestmark = pytest.mark.skipif(REAL.kernels is None, reason=f"no compiled kernels: {REAL.why}")

COMPILER = """#!/bin/sh
echo "$@" >> "{calls}"
{before}
while [ $# -gt 0 ]; do
  case "$1" in
    -shared) shared=1 ;;
    -o) out="$2" ;;
  esac
  shift
done
if [ -n "$shared" ]; then cp "{library}" "$out"; else : > "$out"; fi
"""


class Machine:
    """A user's home, temporary files and compiler."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self.temporary, self.programs = folder / "home", folder / "tmp", folder / "bin"
        for each in (self.home, self.temporary, self.programs):
            each.mkdir()
        self.calls, self.patch = folder / "calls", patch
        patch.setenv("HOME", str(self.home))
        patch.delenv("XDG_CACHE_HOME", raising=False)
        patch.delenv("LAYERMASK_NATIVE", raising=False)
        patch.setattr(tempfile, "tempdir", str(self.temporary))
        patch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        patch.setattr(build, "COMPILERS", ("standin",))
        self.compiler()

    def compiler(self, before: str = "", name: str = "standin") -> None:
        script = self.programs / name
        script.write_text(COMPILER.format(calls=self.calls, before=before, library=REAL.path))
        script.chmod(0o755)

    @property
    def builds(self) -> int:
        return self.calls.read_text().count("-shared") if self.calls.exists() else 0

    @property
    def folder(self) -> Path:
        return self.home / ".cache" / "layermask"

    @property
    def private(self) -> Path:
        return self.temporary / f"layermask-{os.getuid()}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def works(found: Found, folder: Path) -> bool:
    """Whether kernels were found in a folder, and compute."""
    assert found.kernels is not None and found.path is not None and found.path.parent == folder, found
    x, out = torch.randn(3, 20), torch.empty(3, 20)
    found.kernels.affine(x, None, None, None, None, None, out, 0, 0.0, 1.0)
    return torch.equal(out, x.clamp(0, 1)) and found.status == f"compiled, {found.path}"


def test_built_once_and_for_the_user_alone(machine: Machine, capsys: pytest.CaptureFixture) -> None:
    assert works(find(), machine.folder)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "compiling" in said[0] and "layermask build" in said[0] and "LAYERMASK_NATIVE=0" in said[0]
    assert works(again := find(), machine.folder) and not again.built
    assert machine.builds == 1 and not capsys.readouterr().err
    assert stat.S_IMODE(machine.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) & 0o022 for each in machine.folder.iterdir()} == {0}
    assert not [*machine.folder.glob("building-*")]


def test_any_umask(machine: Machine) -> None:
    before = os.umask(0)
    try:
        find()
        assert works(find(), machine.folder) and machine.builds == 1
    finally:
        os.umask(before)


def test_a_folder_that_all_may_read_is_closed(machine: Machine) -> None:
    machine.folder.mkdir(parents=True)
    machine.folder.chmod(0o755)
    assert works(find(), machine.folder)
    assert stat.S_IMODE(machine.folder.stat().st_mode) == 0o700


ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
OTHERS = {
    "folder for all": lambda folder: folder.chmod(0o777),
    "folder for its group": lambda folder: folder.chmod(0o770),
    "folder of another": lambda folder: os.chown(folder, 54321, -1),
    "link of another": lambda folder: os.lchown(moved(folder), 54321, -1),
    "link to another": lambda folder: os.chown(moved(folder).resolve(), 54321, -1),
}


def moved(folder: Path) -> Path:
    """The folder elsewhere, and a link in its place."""
    folder.symlink_to(folder.rename(folder.with_name("elsewhere")))
    return folder


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=ROOT if "another" in kind else ()) for kind in OTHERS]
)
def test_folders_of_others_are_not_used(kind: str, machine: Machine) -> None:
    """Nor is what lies in them, though it is named as it should be."""
    find()
    OTHERS[kind](machine.folder)
    with pytest.warns(UserWarning, match=r"others may write|another user"):
        found = find()
    assert works(found, machine.private) and machine.builds == 2
    assert stat.S_IMODE(machine.private.stat().st_mode) == 0o700


def test_nothing_of_another_user_is_loaded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    find()
    (machine.temporary / "layermask-54321").mkdir(mode=0o700)  # taken by somebody before us
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.warns(UserWarning, match=r"another user.*; .*another user"):
        assert find().kernels is None
    assert machine.builds == 1


def test_a_link_of_ones_own_is_followed(machine: Machine) -> None:
    (target := machine.home / "elsewhere").mkdir(mode=0o700)
    machine.folder.parent.mkdir()
    machine.folder.symlink_to(target)
    assert works(find(), machine.folder) and len([*target.glob("*.so")]) == 1


def written(path: Path, content: bytes) -> None:
    """In a new file, for the old one is in use by this process."""
    path.unlink()
    path.write_bytes(content)


FAULTS = {
    "cut": lambda path: written(path, path.read_bytes()[:-7]),
    "empty": lambda path: written(path, b""),
    "one bit": lambda path: written(path, path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "other content": lambda path: written(path, b"\x7fELF planted"),
    "for all": lambda path: path.chmod(0o666),
    "a link": lambda path: path.symlink_to(path.rename(path.with_suffix(".moved"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_are_damaged_or_planted_are_built_again(fault: str, machine: Machine) -> None:
    (kept,) = [find().path]
    assert kept is not None
    FAULTS[fault](kept)
    if fault == "a folder":
        with pytest.warns(UserWarning):  # there is no place for the new one: another folder is taken
            assert works(find(), machine.private)
        return
    with pytest.warns(UserWarning, match=r"not loaded.*built again"):
        assert works(find(), machine.folder)
    assert machine.builds == 2 and works(find(), machine.folder) and machine.builds == 2


@ROOT
def test_a_file_of_another_user_is_not_loaded(machine: Machine) -> None:
    os.chown(find().path, 54321, -1)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"another user \(uid 54321\).*not loaded"):
        assert works(find(), machine.folder)
    assert machine.builds == 2


def test_a_library_that_cannot_be_loaded_is_built_again(machine: Machine) -> None:
    path = find().path
    assert path is not None
    (machine.home / "text").write_text("no library")
    cache.keep(machine.home / "text", machine.folder, loader.stem())
    with pytest.warns(UserWarning, match="cannot be loaded"):
        assert works(find(), machine.folder)
    assert machine.builds == 2


# --- where the folder is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["relative", "./x", "~/cache", ""])
def test_relative_xdg_paths_are_ignored(named: str, machine: Machine) -> None:
    machine.patch.setenv("XDG_CACHE_HOME", named)
    machine.patch.chdir(machine.home)
    assert works(find(), machine.folder)
    assert {each.name for each in machine.home.iterdir()} == {".cache"}


def test_absolute_xdg_paths_are_taken(machine: Machine) -> None:
    machine.patch.setenv("XDG_CACHE_HOME", str(machine.home / "other"))
    assert works(find(), machine.home / "other" / "layermask")


@pytest.mark.parametrize("home", ["none", "relative", "read-only", "a file"])
def test_without_a_home_temporary_files_serve(home: str, machine: Machine) -> None:
    if home == "none":
        machine.patch.setattr(
            Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home")))
        )
    elif home == "a file":
        (machine.home / ".cache").write_text("")
    else:
        machine.patch.setenv("HOME", {"relative": "here", "read-only": "/proc/nothing"}[home])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert works(find(), machine.private) and works(find(), machine.private)
    assert machine.builds == 1
    assert all(str(machine.private) in str(each.message) for each in heard)
    assert bool(heard) == (home in ("read-only", "a file"))


def test_nowhere_to_keep_them(machine: Machine) -> None:
    machine.patch.setenv("HOME", "/proc/nothing")
    machine.private.write_text("")
    with pytest.warns(UserWarning, match="torch operators do the same work"):
        found = find()
    assert found.kernels is None and found.status.startswith("none: ")


def test_a_prebuilt_library_is_found_first(machine: Machine, tmp_path: Path) -> None:
    (folder := tmp_path / "prebuilt").mkdir()
    shutil.copy(REAL.path, folder / f"{loader.stem()}-wheel.so")  # type: ignore[arg-type]
    machine.patch.setattr(loader, "PREBUILT", folder)
    assert works(find(), folder) and machine.builds == 0


# --- compilers --------------------------------------------------------------------------------------------


def test_no_compiler(machine: Machine, capsys: pytest.CaptureFixture) -> None:
    machine.patch.setattr(build, "COMPILERS", ("nothing",))
    found = find()  # no warning: it is no fault
    assert found.status == "none: there is no C compiler (cc, gcc or clang)" and not capsys.readouterr().err


def test_kernels_that_are_built_need_no_compiler(machine: Machine) -> None:
    find()
    machine.patch.setattr(build, "COMPILERS", ("nothing",))
    assert works(find(), machine.folder)


def test_not_wanted(machine: Machine) -> None:
    machine.patch.setenv("LAYERMASK_NATIVE", "0")
    assert find().status == "none: LAYERMASK_NATIVE=0 is set" and not machine.folder.exists()


@pytest.mark.parametrize(
    "way, words",
    [
        ("echo 'x.c:1: error: no such thing' >&2; exit 1", "error: no such thing"),
        ("exit 1", "gave no reason"),
        ("kill -9 $$", "failed"),
    ],
)
def test_a_compiler_that_fails(way: str, words: str, machine: Machine) -> None:
    machine.compiler(way)
    with pytest.warns(UserWarning, match=words):
        found = find()
    assert found.kernels is None and words in found.status
    assert not [*machine.folder.glob("building-*")]


def test_a_compiler_that_hangs_is_ended(machine: Machine) -> None:
    """Its children too."""
    machine.patch.setattr(build, "SECONDS", 0.5)
    machine.compiler(f"sleep 54.321 & echo $! >> {machine.home}/children; wait")
    begin = time.monotonic()
    with pytest.warns(UserWarning, match="not done after"):
        assert find().kernels is None
    assert time.monotonic() - begin < 20
    children = (machine.home / "children").read_text().split()
    assert children and not any(_runs(int(child)) for child in children)


def _runs(process: int) -> bool:
    try:
        return "sleep" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


def test_the_next_compiler_is_tried(machine: Machine) -> None:
    machine.patch.setattr(build, "COMPILERS", ("broken", "standin"))
    machine.compiler("exit 1", "broken")
    assert works(found := find(), machine.folder) and "standin" in found.built


def test_compilers_of_one_file_are_tried_once(machine: Machine) -> None:
    (machine.programs / "other").symlink_to("standin")
    machine.patch.setattr(build, "COMPILERS", ("standin", "other"))
    assert build.compilers() == [str(machine.programs / "standin")]


def test_two_build_at_once(machine: Machine) -> None:
    """The second waits, and loads what the first has built."""
    machine.compiler("sleep 0.3")
    found: list[Found] = []
    both = [threading.Thread(target=lambda: found.append(find())) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(found) == 2 and all(works(each, machine.folder) for each in found)
    assert machine.builds == 1 and sum(bool(each.built) for each in found) == 1


def test_one_that_hangs_is_not_waited_for(machine: Machine) -> None:
    machine.patch.setattr(cache, "WAIT", 0.3)
    cache.claim(machine.folder)
    with cache.alone(machine.folder):
        assert works(find(), machine.folder)


def test_what_killed_builds_leave_is_removed(machine: Machine) -> None:
    cache.claim(machine.folder)
    for name, age in (("building-old", 7200), ("building-new", 0)):
        (machine.folder / name).mkdir()
        (machine.folder / name / "rows.o").write_text("")
        os.utime(machine.folder / name, (time.time() - age,) * 2)
    find()
    assert [each.name for each in machine.folder.glob("building-*")] == ["building-new"]


# --- in processes of their own ----------------------------------------------------------------------------

PASS = """
import torch, layermask
from layermask.kernels import kernels_status
model = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3) for _ in range(6)]).eval().requires_grad_(False)
layermask.LayerMasking(model)(torch.rand(1, 3, 20, 20), torch.rand(1, 1, 20, 20) < 0.5)
print(kernels_status())
"""


def test_the_first_forward_pass_says_what_it_builds(machine: Machine) -> None:
    """Once, though two processes begin at once; both have the kernels."""
    machine.compiler("sleep 2", "cc")
    paths = os.pathsep.join([str(Path(layermask.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}

    def start() -> subprocess.Popen:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", PASS], env=environment, stdout=pipe, stderr=pipe, text=True
        )

    ends = [each.communicate() for each in [start(), start()]]
    (path,) = machine.folder.glob("*.so")
    assert [out for out, _ in ends] == [f"compiled, {path}\n"] * 2, ends
    said = [line for _, errors in ends for line in errors.splitlines() if "layermask" in line]
    assert len(said) == 1 and "`layermask build`" in said[0]


def test_the_command(machine: Machine, capsys: pytest.CaptureFixture) -> None:
    from typer.testing import CliRunner

    from layermask.cli.app import app

    def run(*options: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["build", *options])
        return done.exit_code, done.output

    status, said = run()
    assert status == 0 and f"compiled {len(build.sources())} C files" in said and str(machine.folder) in said
    status, said = run()
    assert status == 0 and "already compiled" in said and machine.builds == 1
    status, said = run("--force")
    assert status == 0 and "standin" in said and machine.builds == 2
    machine.patch.setenv("LAYERMASK_NATIVE", "0")
    status, said = run()
    assert status == 1 and "LAYERMASK_NATIVE=0" in said
