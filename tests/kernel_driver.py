"""A program in C that runs kernels without Python: for sanitizers and for other processors.

It reads calls from a file and copies each argument into a block of exactly its size, so that a sanitizer sees
a read of one byte too many. It writes what each call returned, and all blocks as they are then.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layermask.kernels import build
from layermask.kernels.signatures import SIGNATURES

SECONDS = 570

HEAD = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *in, *out;
static void *blocks[64];
static long sizes[64], count;

static void get(void *to, long bytes) {
  if (bytes && fread(to, bytes, 1, in) != 1) exit(3);
}
static long number(void) { int64_t x; get(&x, 8); return x; }
static double real(void) { double x; get(&x, 8); return x; }
static void *block(void) {
  long bytes = number();
  void *made = bytes > 0 ? malloc(bytes) : NULL;
  get(made, bytes > 0 ? bytes : 0);
  blocks[count] = made, sizes[count++] = bytes > 0 ? bytes : 0;
  return made;
}
static void **list(long n) {
  void **made = malloc(n * sizeof *made);
  for (long i = 0; i < n; i++) made[i] = block();
  return made;
}
static long *numbers(long n) {
  long *made = malloc(n * sizeof *made);
  for (long i = 0; i < n; i++) made[i] = number();
  return made;
}
long panel_width(void);
long side_by_side(void *, void *, long *, long *, void *, void *, void *, long, long, long, long, double,
                  double, long);
long checksum(void *, long *, long, void *, long);
"""

LISTS = """
    case 1000: {
      long parts = number(), *held = numbers(parts), *widths = numbers(parts);
      void **sources = list(parts), **ats = list(parts);
      void *scale = block(), *shift = block(), *to = block();
      long rows = number(), channels = number(), how = number();
      double a = real(), b = real();
      code = side_by_side(sources, ats, held, widths, scale, shift, to, parts, rows, channels, how, a, b,
                          number());
      free(held), free(widths), free(sources), free(ats);
      break;
    }
    case 1001: {
      long n = number(), *bytes = numbers(n);
      void **tensors = list(n), *to = block();
      code = checksum(tensors, bytes, n, to, number());
      free(bytes), free(tensors);
      break;
    }
"""

TAIL = """
    default: exit(4);
    }
    fwrite(&code, 8, 1, out);
    for (long i = 0; i < count; i++) {
      if (sizes[i]) fwrite(blocks[i], sizes[i], 1, out);
      free(blocks[i]);
    }
  }
  return fclose(out);
}
"""

_KINDS: dict[Any, tuple[str, str, str]] = {
    ctypes.c_void_p: ("p", "void *", "block()"),
    ctypes.c_long: ("i", "long", "number()"),
    ctypes.c_double: ("d", "double", "real()"),
}


def source() -> str:
    """The program in C, made from the table of signatures."""
    declared, cases = [], []
    for i, (name, signature) in enumerate(SIGNATURES.items()):
        kinds = [_KINDS[kind] for kind in signature.c_types]
        declared.append(f"long {name}({', '.join(kind[1] for kind in kinds)});")
        taken = [f"      {kind[1]} x{j} = {kind[2]};" for j, kind in enumerate(kinds)]
        given = ", ".join(f"x{j}" for j in range(len(kinds)))
        cases += [f"    case {i}: {{", *taken, f"      code = {name}({given});", "      break;", "    }"]
    main = ["int main(int n, char **names) {", '  in = fopen(names[1], "rb"), out = fopen(names[2], "wb");']
    main += ["  int64_t which, code;", "  while (fread(&which, 8, 1, in) == 1) {", "    count = 0;"]
    return "\n".join([HEAD, *declared, *main, "    switch (which) {", *cases, LISTS, TAIL])


def compile_driver(folder: Path, *command: str, kernels: Path = build.FOLDER) -> Path:
    """Compile the driver and the kernels of a folder into one program."""
    main, program = folder / "driver.c", folder / "driver"
    main.write_text(source())
    files = [*map(str, sorted(kernels.glob("*.c"))), str(main)]
    objects = [str(folder / f"{Path(each).stem}.o") for each in files]
    deadline = time.monotonic() + SECONDS
    build.run([[*command, "-w", "-c", a, "-o", b] for a, b in zip(files, objects, strict=True)], deadline)
    build.run([[*command, *objects, "-o", str(program), "-lm"]], deadline)
    return program


def _block(x: Tensor | None) -> bytes:
    """Its memory from the first entry to the last, as long as that is."""
    if x is None or not x.numel():
        return struct.pack("q", 0)
    return struct.pack("q", extent(x) * x.itemsize) + _bytes(x)


def extent(x: Tensor) -> int:
    return 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0


def _bytes(x: Tensor) -> bytes:
    return ctypes.string_at(x.data_ptr(), extent(x) * x.itemsize)


def encoded(name: str, values: list, threads: int) -> bytes:
    """A call as the program reads it."""
    if name == "checksum":
        tensors, out = values
        sizes, blocks = [x.nbytes for x in tensors], [*tensors, out]
        head = struct.pack(f"qq{len(sizes)}q", 1001, len(sizes), *sizes)
        return head + b"".join(map(_block, blocks)) + struct.pack("q", threads)
    if name == "side_by_side":
        sources, ats, scale, shift, out, how, a, b = values
        shapes = [x.shape[0] for x in sources] + [x.shape[1] for x in sources]
        head = struct.pack(f"qq{len(shapes)}q", 1000, len(sources), *shapes)
        tail = struct.pack("qqqddq", *out.shape, how, a, b, threads)
        return head + b"".join(map(_block, [*sources, *ats, scale, shift, out])) + tail
    return struct.pack("q", list(SIGNATURES).index(name)) + _encoded(name, values, threads)


def _encoded(name: str, values: list, threads: int) -> bytes:
    signature, caught = SIGNATURES[name], []
    from layermask.kernels.signatures import checked

    checked(signature, lambda *given: caught.extend(given))(*values)
    tensors = iter(values[: len(signature.arrays)])
    parts = []
    for kind, value in zip(signature.c_types, [*caught[:-1], threads], strict=True):
        if kind is ctypes.c_void_p:
            parts.append(_block(next(tensors)))
        else:
            parts.append(struct.pack("d" if kind is ctypes.c_double else "q", value))
    return b"".join(parts)


def run(
    command: Iterable[str], calls: list[tuple[str, list]], folder: Path, **environment: str
) -> list[list[Tensor]]:
    """Run calls by the program; return each one's tensors as they were afterwards.

    The tensors are flat, from the first entry to the last, in the order of the arguments.
    """
    given, answered = folder / "calls", folder / "answers"
    given.write_bytes(b"".join(encoded(*call, threads=1 + i % 3) for i, call in enumerate(calls)))
    done = subprocess.run(
        [*command, str(given), str(answered)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    with answered.open("rb") as file:
        found = [_answer(file, values) for _, values in calls]
        assert not file.read(1)
    return found


def _answer(file: Any, values: list) -> list[Tensor]:
    (code,) = struct.unpack("q", file.read(8))
    assert code == 0, f"the kernel answered {code}"
    return [
        torch.frombuffer(bytearray(file.read(n * x.itemsize)), dtype=x.dtype)
        for x in flat(values)
        if (n := extent(x))
    ]


def flat(values: list) -> list[Tensor]:
    """All tensors among arguments, in order."""
    nested = [x for value in values for x in (value if isinstance(value, (list, tuple)) else [value])]
    return [x for x in nested if isinstance(x, Tensor)]
