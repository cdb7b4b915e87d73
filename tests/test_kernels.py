"""Every kernel in C gives right values on all kinds of processors, and refuses wrong arguments."""

from __future__ import annotations

import copy
import ctypes
import importlib
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import CASES, Draw
from kernel_driver import flat
from kernel_twins import TWINS
from torch import Tensor, nn

import layermask
from layermask import LayerMasking
from layermask.kernels import Kernels, build, kernels_status, library, operators
from layermask.kernels.signatures import OUTCOMES, SIGNATURES, Array
from layermask.padding import custom_op
from layermask.removal.query import out_of_memory

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {kernels_status()}")
TRIALS = 12


def built(folder: Path, *choice: str) -> Kernels:
    build.build(folder / "kernels.so", [" ".join(choice)])
    return Kernels(ctypes.CDLL(str(folder / "kernels.so")))


@pytest.fixture(scope="module", params=["this processor", "x86-64"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The library in use, and one for the oldest processors of 64 bits: no AVX."""
    found = library()
    assert found is not None
    if request.param == "this processor":
        return found
    if platform.machine() != "x86_64":
        pytest.skip("another kind of processor")
    old = built(tmp_path_factory.mktemp("old"), "-march=x86-64")
    assert old.panel_width == 16
    return old


def call(kernels: Kernels, name: str, values: list) -> None:
    if name == "checksum":
        values[1].fill_(kernels.checksum(values[0]) >> 1)
    else:
        getattr(kernels, name)(*values)


def copied(values: list) -> list:
    """Arguments with storage of their own, laid out as they were."""
    return copy.deepcopy(values)


def close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(ours.dtype, 1e-4)
    return torch.allclose(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", TWINS)
def test_kernels_agree_with_their_twins(name: str, kernels: Kernels) -> None:
    for seed in range(TRIALS):
        ours = CASES[name](Draw(seed, kernels.panel_width))
        theirs = copied(ours)
        call(kernels, name, ours)
        TWINS[name](*theirs)
        for one, other in zip(flat(ours), flat(theirs), strict=True):
            assert close(one, other), (seed, [tuple(x.shape) for x in flat(ours)])


@pytest.mark.parametrize("name", ["need", "number_rows", "checksum"])
def test_processors_agree(name: str, kernels: Kernels) -> None:
    """Whole numbers: bit for bit."""
    found = library()
    assert found is not None
    for seed in range(TRIALS):
        ours = CASES[name](Draw(seed, 0))
        theirs = copied(ours)
        call(kernels, name, ours)
        call(found, name, theirs)
        assert all(map(torch.equal, _meant(name, ours), _meant(name, theirs)))


def _meant(name: str, values: list) -> list[Tensor]:
    """What a plan says, without the places in `needed` that it does not use."""
    if name != "need":
        return flat(values)
    rings, _, _, listed, needed, counts, *_ = values
    lists = [
        row[:n].sort().values
        for row, n in zip(needed.view(len(rings), rings[:1].numel()), counts.sum(1), strict=True)
    ]
    return [listed, counts, *lists]


# --- what kernels refuse ----------------------------------------------------------------------------------


def wrong(x: Tensor, array: Array) -> Iterator[tuple[str, object]]:
    """The tensor with one fault each: kind, device, number of axes, each size, layout."""
    yield "dtype", x.to(torch.int16)
    yield "device", x.to("meta")
    yield "an axis more", x[None]
    yield "a list", x.tolist()
    for axis in range(x.ndim):
        yield f"axis {axis} longer", torch.cat([x, x.narrow(axis, 0, 1)], axis)
        yield f"axis {axis} shorter", x.narrow(axis, 0, x.shape[axis] - 1).contiguous()
    if array.layout == "":
        yield "gaps", torch.stack([x, x], -1)[..., 0]
    if array.written:
        yield "overlap", x[:1].expand(x.shape) if x.shape[0] > 1 else x[..., :1].expand(x.shape)


FREE = {  # sizes that nothing but the entries of tables depends on
    *(
        ("affine", "source", 0),
        ("affine", "scales", 0),
        ("layer_norm", "source", 0),
        ("maximum", "source", 0),
    ),
    *(("product", "first", 0), ("product", "second", 0), ("product", "added", 0), ("means", "source", 0)),
    *(
        ("depthwise", "first", 0),
        ("depthwise", "second", 0),
        ("image_means", "source", 0),
        ("means", "out", 0),
    ),
    *(("means", "sources", 0), ("need", "read", 0), ("need", "read", 1), ("number_rows", "sources", 0)),
    *(
        (name, array, axis)
        for name in ("fill_values", "hide_values")
        for array in ("value", "rings", "visible")
        for axis in (0, 1)
    ),
    *(
        ("maximum", "table", 1),
        ("number_rows", "read", 0),
        ("number_rows", "read", 1),
        ("product", "table", 0),
    ),
}


def full_case(name: str) -> list:
    """Arguments that are all there, none empty or of one entry."""
    for seed in range(20_000):
        values = CASES[name](Draw(seed, library().panel_width))  # type: ignore[union-attr]
        arrays = values[: len(SIGNATURES[name].arrays)]
        given = [x for x in arrays if x is not None]
        exclusive = 2 if name == "affine" else 0  # scale, or scales
        if len(given) >= len(arrays) - exclusive and all(min(x.shape[-1], x.numel() - 1) > 1 for x in given):
            return values
    raise AssertionError(f"no such case of {name}")


@pytest.mark.parametrize("name", SIGNATURES)
def test_wrong_tensors_are_refused_by_name(name: str) -> None:
    kernels, signature, right = library(), SIGNATURES[name], full_case(name)
    assert kernels is not None
    for i, array in enumerate(signature.arrays):
        if right[i] is None:
            continue
        for fault, x in wrong(right[i], array):
            values = copied(right)
            values[i] = x
            axis = int(fault.split()[1]) if fault.startswith("axis") else None
            if (name, array.name, axis) in FREE:
                continue
            with pytest.raises(RuntimeError, match=f"the kernel {name} ") as raised:
                getattr(kernels, name)(*values)
            if axis is None:
                assert f"needs {array.name} as " in str(raised.value), (fault, raised.value)
        if not array.optional:
            values = copied(right)
            values[i] = None
            with pytest.raises(RuntimeError, match=f"{name} needs {array.name} as "):
                getattr(kernels, name)(*values)
    getattr(kernels, name)(*right)


TABLES = [
    (name, array.name)
    for name, one in SIGNATURES.items()
    for array in one.arrays
    if array.kind in ("i32", "i64")
]
OUTPUTS = {
    ("window_cells", "read"),
    ("need", "needed"),
    ("need", "counts"),
    ("number_rows", "number"),
    ("number_rows", "sources"),
}


@pytest.mark.parametrize("name, table", [each for each in TABLES if each not in OUTPUTS], ids=str)
@pytest.mark.parametrize("entry", ["far below", "far above", "one too many"])
def test_tables_that_name_nothing_are_refused(name: str, table: str, entry: str) -> None:
    kernels, signature = library(), SIGNATURES[name]
    assert kernels is not None
    names, refused = [array.name for array in signature.arrays], 0
    for seed in range(60):
        values = CASES[name](Draw(seed, kernels.panel_width))
        at = values[names.index(table)]
        if at is None or not at.numel() or not all(x.numel() for x in flat(values)):
            continue
        largest = {"far above": 2**31 - 1, "far below": -(2**31)}
        used = torch.arange(at.numel())
        if table in ("begins", "counts") and name == "number_rows":  # of rings that there are
            used = values[names.index("counts")].flatten().nonzero()[:, 0]
        if not len(used):
            continue
        at.view(-1)[used[seed % len(used)]] = largest.get(entry, _rows_named(values, names, table))
        before = copied(values)
        try:
            getattr(kernels, name)(*values)
        except RuntimeError as error:
            refused += any(words in str(error) for words in (OUTCOMES[2], OUTCOMES[3]))
        else:
            assert _does_not_matter(name, table, before, values), (seed, entry)
    assert refused or (entry == "far below" and table == "read")  # which stands for padding


def _rows_named(values: list, names: list[str], table: str) -> int:
    """One more than the last that this table could name."""
    given = dict(zip(names, values, strict=False))
    if "rings" in given:
        return given["rings"].numel() + 10**6 * (table in ("counts", "begins"))
    if table in ("scale_at", "added_at"):
        return len(given["scales" if table == "scale_at" else "added"])
    if table == "cells":
        return 2**31 - 1
    held = len(given["source"] if "source" in given else given["first"])
    filled = len(given["second"]) if given.get("second") is not None else 0
    return held + filled + {"sources": 10**6, "begins": 1}.get(table, 0)


def _does_not_matter(name: str, table: str, before: list, values: list) -> bool:
    """Whether nothing depends on this entry, or it has a right answer."""
    if name in TWINS:
        TWINS[name](*before)
        return all(map(close, flat(values), flat(before)))
    return table == "read" or (name, table) == ("number_rows", "needed")


@pytest.mark.parametrize("how", [-1, 7, 2**40])
def test_activations_that_are_not_there(how: int) -> None:
    x = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="needs 0 <= how"):
        library().affine(x, None, None, None, None, None, x, how, 0.0, 0.0)  # type: ignore[union-attr]


def test_rings_that_nothing_is_around() -> None:
    for channels in (1, 40):
        for layout in (torch.contiguous_format, torch.channels_last):
            value = torch.ones(1, channels, 4, 4).contiguous(memory_format=layout)
            for number in (1, 3):  # nothing visible; a ring beyond the reach
                rings = torch.full((1, 1, 4, 4), number, dtype=torch.uint8)
                with pytest.raises(RuntimeError, match="a map of rings"):
                    torch.ops.layermask.fill_(value, rings, [2, 2], 0.0)


def test_sizes_beyond_32_bits_are_refused() -> None:
    cells, read = torch.tensor([2**31 - 2], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="32-bit"):
        library().window_cells(cells, read, 9, 9, 2, 2, *[1] * 4, 0, 0, 1, 1)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="all"):
        library().window_cells(cells, read, 9, 9, 2, 2, 1, 1, 2**40, 1, 0, 0, 1, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("kernel", [(2, 254), (2, 255), (2, 256)], ids=str)
def test_pools_wider_than_a_plan_has_rings(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(kernel, 1), nn.Conv2d(4, 2, 1))
        .eval()
        .requires_grad_(False)
    )
    images, visible = torch.randn(1, 3, 3, 260), torch.zeros(1, 1, 3, 260, dtype=torch.bool)
    visible[..., :3] = True
    dense, sparse = (LayerMasking(model, engine=engine)(images, visible) for engine in ("dense", "sparse"))
    assert torch.allclose(dense, sparse, atol=1e-5)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("size", [1, 11, 13])
def test_a_layer_norm_of_the_wrong_size_is_an_error_as_in_torch(part: str, size: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(*(nn.Conv2d(c, 12, 3, padding=1) for c in (3, 12, 12, 12, 12, 12)))
            self.norm, self.head = nn.LayerNorm(12), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.convs(x).permute(0, 2, 3, 1)
            x = F.layer_norm(x, (12,), self.norm.weight, self.norm.bias)
            return self.head(x.permute(0, 3, 1, 2)).mean((2, 3))

    model = Net().eval().requires_grad_(False)
    setattr(model.norm, part, nn.Parameter(torch.ones(size), requires_grad=False))
    visible = torch.rand(2, 1, 9, 9) < 0.5
    for engine in ("dense", "sparse"):
        with pytest.raises(RuntimeError):
            LayerMasking(model, engine=engine)(torch.randn(2, 3, 9, 9), visible)


def test_a_shift_without_a_scale_is_added() -> None:
    x, shift, kernels = torch.randn(3, 40), torch.randn(40), library()
    out, both = torch.empty(3, 40), torch.empty(3, 80)
    assert kernels is not None
    nothing = (0, -torch.inf, torch.inf)
    kernels.affine(x, None, None, None, None, shift, out, *nothing)
    kernels.side_by_side([x, x], [None, None], None, torch.cat([shift, shift]), both, *nothing)
    assert torch.equal(out, x + shift) and torch.equal(both, torch.cat([out, out], 1))


def test_lists_of_tensors_are_checked() -> None:
    kernels, x, nothing = library(), torch.ones(3, 4), (0, 0.0, 1.0)
    assert kernels is not None
    at = torch.zeros(3, dtype=torch.int32)
    for sources, ats, scale, out, words in [
        ([x, x], [None], None, torch.ones(3, 8), "as many ats"),
        ([x, x], [None, None], None, torch.ones(3, 7), "8 columns"),
        ([x], [None], None, torch.ones(4, 4), "M <= V"),
        ([x.double()], [None], None, torch.ones(3, 4), "source as"),
        ([x.t().contiguous().t()], [None], None, torch.ones(3, 4), "source as"),
        ([x], [at.long()], None, torch.ones(3, 4), "at as"),
        ([x], [at + 3], None, torch.ones(3, 4), "not there"),
        ([x], [None], torch.ones(5), torch.ones(3, 4), "scale as"),
        ([x.to("meta")], [None], None, torch.ones(3, 4), "source as"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            kernels.side_by_side(sources, ats, scale, None, out, *nothing)
    for block in (torch.ones(4, 4).t()[1:], torch.ones(3, device="meta")):
        with pytest.raises(RuntimeError, match="checksum needs"):
            kernels.checksum([block])


def test_no_memory_is_an_exception(tmp_path: Path) -> None:
    """All of the library's own requests fail, one kind or the other."""
    for name in ("calloc", "malloc"):
        (folder := tmp_path / name).mkdir()
        starved = folder / "starved.h"
        starved.write_text(f"#include <stdlib.h>\n#define {name}(...) NULL\n")
        command = ["cc", "-shared", "-fPIC", "-fopenmp", "-O1", "-include", str(starved), "-w"]
        done = subprocess.run([*command, *map(str, build.sources()), "-o", str(folder / "k.so"), "-lm"])
        assert done.returncode == 0
        kernels = Kernels(ctypes.CDLL(str(folder / "k.so")))
        visible = torch.rand(2, 1, 1, 9, 9) < 0.5
        rings = custom_op._rings(visible, None, [0, 2, 2])
        by_planes, by_rows = torch.randn(2, 12, 1, 9, 9), torch.randn(2, 1, 9, 9, 12).movedim(-1, 1)
        with pytest.raises(torch.OutOfMemoryError) as raised:
            kernels.fill_values(by_planes, rings, 0, 2, 2, 0.0)
        assert out_of_memory(raised.value)
        kernels.fill_values(by_rows, rings, 0, 2, 2, 0.0)  # which needs none
        if name == "calloc":
            with pytest.raises(torch.OutOfMemoryError):
                kernels.fill_rings(visible, None, rings, 0, 2, 2)


# --- the table, the sources and the operators ---------------------------------------------------------------

LETTERS = {ctypes.c_void_p: "p", ctypes.c_long: "i", ctypes.c_double: "d"}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_table_says_what_the_sources_say(name: str) -> None:
    text = "\n".join(path.read_text() for path in build.sources())
    (arguments,) = re.findall(rf"^long {name}\(([^)]*)\)", text, re.MULTILINE)
    kinds = ["p" if "*" in each else "d" if "double" in each else "i" for each in arguments.split(",")]
    assert kinds == [LETTERS[kind] for kind in SIGNATURES[name].c_types]
    assert arguments.split()[-1] == "threads"


def test_no_kernel_ends_the_process() -> None:
    for path in Path(layermask.__file__).parent.glob("kernels/c/*.[ch]"):
        assert not re.search(r"\b(abort|exit|assert|raise)\s*\(", path.read_text()), path


def test_every_kernel_is_an_operator_and_has_cases() -> None:
    text = "\n".join(path.read_text() for path in build.sources())
    defined = set(re.findall(r"^long (\w+)\(", text, re.MULTILINE)) - {"panel_width"}
    assert defined == set(operators.SCHEMAS) == set(CASES)
    assert all(hasattr(torch.ops.layermask, name) for name in defined)


@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
@pytest.mark.parametrize("name", operators.SCHEMAS)
def test_operators_are_registered_by_the_book(name: str) -> None:
    values = full_case(name) if name in SIGNATURES else CASES[name](Draw(3, 0))
    torch.library.opcheck(getattr(torch.ops.layermask, name).default, tuple(values))


@pytest.mark.filterwarnings("ignore")
def test_operators_of_the_fill_are_registered_by_the_book() -> None:
    visible, is_padding = torch.rand(2, 1, 9, 9) < 0.5, torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    for masks in ((visible, None), (visible, is_padding)):
        torch.library.opcheck(torch.ops.layermask.rings.default, (*masks, [2, 2]))
    rings = custom_op.rings(visible, None, [2, 2])
    torch.library.opcheck(torch.ops.layermask.fill_.default, (torch.randn(2, 8, 9, 9), rings, [2, 2], 0.0))


def test_fake_forms_refuse_what_kernels_refuse() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        right, short = torch.ones(3, 4), torch.ones(3)
        torch.ops.layermask.layer_norm(right, None, torch.ones(4), None, right, 1e-5)
        with pytest.raises(RuntimeError, match="needs weight as"):
            torch.ops.layermask.layer_norm(right, None, short, None, right, 1e-5)


def test_modules_can_be_loaded_again() -> None:
    """As notebooks do that watch for changes."""
    importlib.reload(operators)
    importlib.reload(custom_op)
    visible = torch.rand(1, 1, 5, 5) < 0.5
    assert torch.ops.layermask.rings(visible, None, [1, 1]).shape == (1, 1, 5, 5)


def test_operators_say_why_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "library", lambda: None)
    monkeypatch.setattr(operators, "kernels_status", lambda: "none: LAYERMASK_NATIVE=0 is set")
    x = torch.ones(2, 2)
    calls: list[Callable[[], None]] = [
        lambda: torch.ops.layermask.maximum(x, torch.zeros(2, 1, dtype=torch.int32), x),
        lambda: torch.ops.layermask.checksum([x], torch.zeros(1, dtype=torch.int64)),
    ]
    for each in calls:
        with pytest.raises(RuntimeError, match="LAYERMASK_NATIVE=0"):
            each()
