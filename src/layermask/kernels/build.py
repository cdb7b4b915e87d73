"""Compiling the C sources into one shared library."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from layermask.errors import BuildError

FOLDER = Path(__file__).parent / "c"
FLAGS = "-O3 -fopenmp -fPIC -std=gnu11 -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
CHOICES = ("-march=native", "-mcpu=native", "-O3")
"""The first that a compiler knows is taken: for this processor, as two kinds of compilers say it; for any."""
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 300.0
"""How long a build may take in all; a busy machine needs a minute."""


NO_COMPILER = "there is no C compiler (cc, gcc or clang)"


def sources() -> list[Path]:
    """The C files, in order."""
    return sorted(FOLDER.glob("*.c"))


def build(out: Path, choices: Sequence[str] = CHOICES) -> str:
    """Compile the library `out`, whose folder takes the objects; return the compiler and the choice taken.

    Raises:
        BuildError: no compiler is there, all of them failed, or the time is over.
    """
    deadline, why = time.monotonic() + SECONDS, NO_COMPILER
    for compiler in compilers():
        for choice in choices:
            try:
                _compile(compiler, choice, out, deadline)
                return f"{compiler} {choice}"
            except OSError as error:
                why = f"{compiler} cannot be run: {error.strerror}"
            except BuildError as error:
                why = str(error)
                if time.monotonic() >= deadline:
                    raise
    raise BuildError(why)


def compilers() -> list[str]:
    """Those on the PATH, each once: `cc` is often another name of one of them."""
    found = filter(None, map(shutil.which, COMPILERS))
    return list({Path(path).resolve(): path for path in reversed([*found])}.values())[::-1]


def _compile(compiler: str, choice: str, out: Path, deadline: float) -> None:
    """Objects are linked without -fopenmp: its functions are then torch's own, and its threads too."""
    objects = {source: str(out.with_name(source.stem + ".o")) for source in sources()}
    run([[compiler, *FLAGS, choice, "-c", str(a), "-o", b] for a, b in objects.items()], deadline)
    link = [compiler, "-shared", *objects.values(), "-o", str(out), "-lm"]
    run([link], deadline)
    try:
        ctypes.CDLL(str(out))
    except OSError:  # torch brings no OpenMP of this compiler's kind
        out.unlink(missing_ok=True)  # a new file, for this one's place may be taken as loaded
        run([[*link, "-fopenmp"]], deadline)


def run(commands: list[list[str]], deadline: float) -> None:
    """Run commands side by side, each in a process group of its own that ends with it.

    Raises:
        BuildError: one failed, or the time is over.
    """
    with tempfile.TemporaryFile() as words:
        running = []
        try:
            for command in commands:
                running.append(_start(command, words.fileno()))
            for process in running:
                if process.wait(max(0.0, deadline - time.monotonic())):
                    words.seek(0)
                    raise BuildError(
                        f"{commands[0][0]} failed: {_first_error(words.read().decode(errors='replace'))}"
                    )
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{commands[0][0]} was not done after {SECONDS:.0f} s") from error
        finally:
            for process in running:
                _end(process)


def _start(command: list[str], words: int) -> subprocess.Popen:
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=words, start_new_session=True)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # its children too
        process.wait()


def _first_error(words: str) -> str:
    lines = [line for line in words.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "it gave no reason")[:300]
