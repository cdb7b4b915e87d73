"""The sparse engine on GPUs: its Triton kernels in the interpreter and the compiler, and when they run."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_sparse import MASKS, Net, held, images, masks, taken  # noqa: F401  # a fixture
from torch import Tensor

import layermask
from layermask import LayerMasking
from layermask.kernels.activation import ACTIVATIONS, Activation
from layermask.kernels.operands import RowSource
from layermask.sparse import ops as kernels

TESTS = Path(__file__).parent
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST = 99 * 1024  # bytes of shared memory of one program, on the GPUs that Triton supports


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def sparse_triton():
    pytest.importorskip("triton")
    from layermask.kernels.triton import rows as sparse_triton

    return sparse_triton


def run(*command: str, **environment: str) -> None:
    paths = [str(Path(layermask.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


INTERPRETER = [
    pytest.param("in the interpreter", "3x3-", id="some in the interpreter"),
    pytest.param("in the interpreter", "", id="all in the interpreter", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("where, cases", [*INTERPRETER, pytest.param("on a GPU", "", id="on a GPU")])
def test_the_kernels_agree_with_their_twins(where: str, cases: str) -> None:
    pytest.importorskip("triton")
    if where == "on a GPU" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    laws = str(TESTS / "sparse_triton_laws.py")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "-k", cases, laws)
    run(*command, TRITON_INTERPRET=str(int(where == "in the interpreter")), LAYERMASK_NATIVE="0")


# --- what the interpreter does not see: types and layouts of the compiler ---------------------------------


POINTERS = dict(zip((*FLOATS, torch.int32, torch.int64), "fp32 bf16 fp16 i32 i64".split(), strict=True))


class Compiler:
    """Stands for a kernel: compiles what would be launched, for a GPU that need not be there."""

    def __init__(self, kernel, capability: int) -> None:
        self.kernel, self.capability, self.compiled = kernel, capability, []

    def __getitem__(self, grid: tuple):
        assert all(isinstance(size, int) and size > 0 for size in grid)
        return self.launch

    def launch(self, *args, **named) -> None:
        import triton
        from triton.backends.compiler import GPUTarget

        options = {name: named.pop(name) for name in ("num_warps", "num_stages") if name in named}
        values = {p.name: value for p, value in zip(self.kernel.params, args, strict=False)} | named
        types = {p.name: self.type_of(values[p.name], p) for p in self.kernel.params}
        fixed = {name: values[name] for name, kind in types.items() if kind == "constexpr"}
        moving = ((i, p) for i, p in enumerate(self.kernel.params) if p.name not in fixed)
        even = [i for i, p in moving if self.even(values[p.name], p)]
        attributes = {(i,): [["tt.divisibility", 16]] for i in even}
        source = triton.compiler.ASTSource(self.kernel, types, fixed, attributes)
        target = GPUTarget("cuda", self.capability, 32)
        self.compiled.append(triton.compile(source, target=target, options=options))

    def type_of(self, value, param) -> str:
        if isinstance(value, Tensor):
            return "*" + POINTERS[value.dtype]
        if value is None or param.is_constexpr or (value == 1 and not param.do_not_specialize):
            return "constexpr"
        return "fp32" if isinstance(value, float) else param.annotation_type or "i32"

    def even(self, value, param) -> bool:
        if isinstance(value, Tensor):
            return True  # as memory of GPUs begins
        return isinstance(value, int) and not param.do_not_specialize and value % 16 == 0


@pytest.mark.parametrize(
    "dtype, precision, capability",
    [(FLOATS[0], "ieee", 90), (FLOATS[0], "tf32", 80), (FLOATS[1], "tf32", 90), (FLOATS[2], "tf32", 80)],
    ids=str,
)
def test_the_kernels_compile(
    sparse_triton, dtype: torch.dtype, precision: str, capability: int, monkeypatch, tmp_path: Path
) -> None:
    """Without spilling out of any GPU's shared memory, and reading whole rows 16 bytes at a time."""
    if not hasattr(sparse_triton._product, "params"):
        pytest.skip("Triton interprets")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # some versions warn where it is not set
    monkeypatch.setattr(kernels, "on_gpu", lambda x: sparse_triton)
    monkeypatch.setattr(sparse_triton, "_precision", lambda x: precision)
    names = ("_product", "_depthwise", "_maximum", "_affine", "_means", "_image_means")
    found = {name: Compiler(getattr(sparse_triton, name), capability) for name in names}
    for name, compiler in found.items():
        monkeypatch.setattr(sparse_triton, name, compiler)
    launch_all(dtype)
    for name, compiler in found.items():
        assert compiler.compiled, name
        for one in compiler.compiled:
            assert one.metadata.shared <= SMALLEST, (name, one.metadata)
    product = found["_product"].compiled[0].asm["ptx"]
    assert re.search(r"cp\.async.*0x10", product) and "ld.global.b16" not in product


def launch_all(dtype: torch.dtype) -> None:
    """Every kernel, with all that it may take and with nothing."""
    rows, filled = torch.empty(1000, 128, dtype=dtype), torch.empty(48, 128, dtype=dtype)
    table = torch.empty(1000, 9, dtype=torch.int32)
    weights = kernels.Weights((1, 128, 9, 128), rows.new_empty(1, 128, 9, 128), None)
    at = table[:, 0].contiguous()
    kernels.product(RowSource(rows, filled), table, weights, (rows, at), Activation("gelu"))
    weights = kernels.Weights((2, 20, 1, 64), rows.new_empty(2, 20, 1, 64), rows.new_empty(40))
    kernels.product(RowSource(rows), None, weights)
    weights = kernels.Weights((128, 1, 9, 1), rows.new_empty(9, 128), rows[0])
    kernels.depthwise(RowSource(rows, filled), table, weights, Activation("silu"))
    kernels.maximum(rows, table)
    for i, name in enumerate(ACTIVATIONS):
        few = (at, filled, None, at) if i else (None, rows[0], filled[0], None)
        kernels.affine(rows, *few[:3], Activation(name, 0.0, 6.0), torch.empty_like(rows), few[3])
    kernels.on_gpu(rows).means(RowSource(rows, filled), table[:47, :8].contiguous(), 3, 47)
    kernels.image_means(rows, torch.empty(5, dtype=torch.int64), at)


# --- choices ----------------------------------------------------------------------------------------------


def test_tiles_fit(sparse_triton) -> None:
    """None is wider than it must be; there is one for every processor, or they are as small as they get."""
    sizes = (1, 40, 64, 1000, 200_000), (1, 20, 64, 2048), (1, 8), (1, 132), (False, True)
    smallest = sparse_triton.TILES[-1]
    for rows, columns, groups, processors, exact in itertools.product(*sizes):
        high, wide = sparse_triton._tile(rows, columns, groups, processors, exact)
        assert 16 <= wide <= max(16, 2 * columns - 1) and wide & (wide - 1) == 0
        programs = -(-rows // high) * -(-columns // wide) * groups
        assert programs >= processors or (high, wide) == (smallest[0], min(wide, smallest[1]))
        assert not exact or high * wide <= 64 * 64


def test_float32_is_rounded_only_where_the_user_lets_torch(sparse_triton) -> None:
    script = """
import torch
from layermask.kernels.triton import rows as sparse_triton
assert sparse_triton._precision(torch.empty(0)) == "ieee"
{change}
assert sparse_triton._precision(torch.empty(0)) == "tf32"
assert sparse_triton._precision(torch.empty(0, dtype=torch.float16)) == "tf32"
"""
    changes = ["torch.backends.cuda.matmul.allow_tf32 = True"]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # after which the other may not be read
        changes.append("torch.backends.cuda.matmul.fp32_precision = 'tf32'")
    for change in changes:
        run("-c", script.format(change=change))


def test_kernels_are_for_what_they_know(sparse_triton, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_gpu(dtype: torch.dtype, capability: tuple[int, int]):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        like = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, is_cuda=True)
        return kernels.on_gpu(like)  # type: ignore[arg-type]

    assert all(on_gpu(dtype, (9, 0)) is sparse_triton for dtype in FLOATS)
    assert on_gpu(torch.float64, (9, 0)) is None and on_gpu(torch.float32, (7, 5)) is None
    assert kernels.on_gpu(torch.empty(0)) is None


def test_automatic_means_kernels_in_c(monkeypatch: pytest.MonkeyPatch, taken: list[str]) -> None:  # noqa: F811
    """Nobody has measured the others."""
    monkeypatch.setattr(kernels, "compiled", lambda x: None)
    monkeypatch.setattr("layermask.sparse.engine.compiled", lambda x: None)
    monkeypatch.setattr(kernels, "on_gpu", lambda x: SimpleNamespace())
    net, x = Net(held).eval(), images(1)
    visible = masks(x, MASKS, 1)
    LayerMasking(net)(x, visible)
    assert not taken
    with pytest.raises(AttributeError, match="has no attribute"):
        LayerMasking(net, engine="sparse")(x, visible)


def test_triton_is_imported_only_for_gpus() -> None:
    run(
        "-c",
        "import sys, torch, layermask\n"
        "model = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)\n"
        "x, visible = torch.randn(1, 3, 9, 9), torch.rand(1, 1, 9, 9) < 0.5\n"
        "layermask.LayerMasking(model, engine='sparse')(x, visible)\n"
        "assert not any(name.startswith('layermask.kernels.triton.') for name in sys.modules)\n",
    )
