"""The kernels without Python: under sanitizers, and on processors that are not here.

LAYERMASK_CASES: how many calls of each kernel (`make sanitize` makes more). AArch64 needs a cross compiler
and qemu's user emulation: apt-get install gcc-aarch64-linux-gnu qemu-user.
"""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from kernel_cases import CASES, Draw
from kernel_driver import compile_driver, extent, flat, run
from kernel_twins import TWINS
from torch import Tensor

from layermask.kernels import build, library

CALLS = int(os.environ.get("LAYERMASK_CASES", "10"))
COMPILER = next(iter(build.compilers()), "")
pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")
OPTIONS = [flag for flag in build.FLAGS if flag not in ("-O3", "-fPIC")]
SANITIZED = (
    "-O1 -g -march=native -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all".split()
)


def expected(name: str, values: list) -> list[Tensor]:
    """The tensors after a call, by the twin if there is one, each from its first entry to its last."""
    theirs = copy.deepcopy(values)
    if name in TWINS:
        TWINS[name](*theirs)
    elif name == "checksum":
        torch.ops.layermask.checksum(*theirs)
    else:
        getattr(library(), name)(*theirs)
    return [x.as_strided((extent(x),), (1,)) for x in flat(theirs) if extent(x)]


def close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(ours.dtype, 1e-4)
    return torch.allclose(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def judge(command: list[str], panel: int, folder: Path, **environment: str) -> None:
    calls = [(name, CASES[name](Draw(seed, panel))) for name in CASES for seed in range(CALLS)]
    for (name, values), ours in zip(calls, run(command, calls, folder, **environment), strict=True):
        assert all(map(close, ours, expected(name, values))), (name, [tuple(x.shape) for x in flat(values)])


def panel_of(*command: str) -> int:
    """The width of panels on a processor, asked of its preprocessor."""
    lines = '#include "product.c"\nPANEL\n'
    asked = [*command, "-E", "-P", "-I", str(build.FOLDER), "-x", "c", "-"]
    done = subprocess.run(asked, input=lines, capture_output=True, text=True)
    return math.prod(map(int, re.findall(r"\d+", done.stdout.splitlines()[-1])))  # as (4 * 16)


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer, each argument in a block of exactly its size."""
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run([COMPILER, *SANITIZED, str(probe), "-o", str(tmp_path / "probe")]).returncode:
        pytest.skip(f"{COMPILER} brings no sanitizers")
    program = compile_driver(tmp_path, COMPILER, *OPTIONS, *SANITIZED)
    judge([str(program)], panel_of(COMPILER, "-march=native"), tmp_path, OMP_NUM_THREADS="3")


FAULTS = [
    ("depthwise", "rows.c", "; c + LANES <= channels; c += LANES", "; c < channels; c += LANES"),
    ("layer_norm", "rows.c", "channels / LANES * LANES", "(channels + LANES - 1) / LANES * LANES"),
    ("affine", "activations.h", "(uint32_t)(int32_t)n << 23", "(int32_t)n << 23"),
    (
        "product",
        "product.c",
        "memcpy(start, g->bias + n0, (size_t)n ",
        "memcpy(start, g->bias + n0, (size_t)PANEL ",
    ),
    ("maximum", "rows.c", "if (s < 0) continue;", ""),
    ("window_cells", "plan.c", "read + m * each", "read + m * each + 1"),
    ("fill_values", "fill.c", "return g->guard + z", "return z"),
    ("checksum", "checksum.c", "i + ROUND_BYTES <= bytes", "i < bytes"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, file, right, wrong", FAULTS, ids=[fault[0] for fault in FAULTS])
def test_sanitizers_would_see(name: str, file: str, right: str, wrong: str, tmp_path: Path) -> None:
    """What reads beyond a block by a vector, an index or a byte, and arithmetic that C does not define."""
    shutil.copytree(
        build.FOLDER, broken := tmp_path / "kernels", ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    text = (broken / file).read_text()
    assert right in text
    (broken / file).write_text(text.replace(right, wrong))
    program = compile_driver(tmp_path, COMPILER, *OPTIONS, *SANITIZED, kernels=broken)
    calls = [(name, CASES[name](Draw(seed, panel_of(COMPILER, "-march=native")))) for seed in range(100)]
    with pytest.raises(AssertionError, match=r"AddressSanitizer|runtime error"):
        run([str(program)], calls, tmp_path, OMP_NUM_THREADS="1")


@pytest.mark.slow
def test_aarch64(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-gcc or qemu-aarch64 here")
    program = compile_driver(tmp_path, compiler, "-O3", *OPTIONS, "-static")
    judge([emulator, str(program)], panel_of(compiler), tmp_path)
