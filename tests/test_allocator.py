"""The command line has glibc keep freed blocks; nothing else is changed, and a user's choice stands."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

import layermask.cli
from layermask.cli import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
COUNT = """
import ctypes, resource, sys
from layermask.cli.allocator import keep_blocks
if sys.argv[1] == "kept":
    assert keep_blocks()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for round in range(5):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def unset(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@GLIBC
def test_blocks_that_were_freed_are_not_cleared_again(unset) -> None:
    plain, kept = faults("plain"), faults("kept")
    if plain < 60:
        pytest.skip("the system hands out pages too large to count")
    assert kept < plain / 4


@GLIBC
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=10")],
)
def test_the_choice_of_the_user_stands(unset, monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    assert allocator.keep_blocks() is False


def test_other_systems_are_left_alone(unset, monkeypatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    assert allocator.keep_blocks() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("asked another system's library"))
    assert allocator.keep_blocks() is False


def test_the_program_keeps_blocks_before_a_command_runs(monkeypatch) -> None:
    done = []
    monkeypatch.setattr(layermask.cli, "keep_blocks", lambda: done.append("kept"))
    monkeypatch.setattr("layermask.cli.app.app", lambda: done.append("ran"))
    layermask.cli.main()
    assert done == ["kept", "ran"]
