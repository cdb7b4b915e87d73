"""The sparse engine's Triton kernels against its twins in torch, in Triton's interpreter or on a GPU.

Run by test_sparse_triton.py, for each in a process of its own: Triton asks once whether to interpret.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
import triton.language as tl
from test_sparse import BODIES, MASKS, RELU6, SHAPES, WINDOWS, Net, engines, images, masks, situation
from torch import Tensor, nn
from triton.runtime import interpreter

from layermask.kernels.activation import ACTIVATIONS, NOTHING, Activation
from layermask.kernels.operands import RowSource
from layermask.kernels.triton import rows as sparse_triton
from layermask.sparse import ops as kernels
from layermask.sparse.active import ActiveSites, active_sites
from layermask.sparse.plan import FillPlan

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
TAILS = [(1, 1, 1), (1, 130, 1), (130, 5, 1), (16, 10, 2), (5, 5, 5)]
KINDS = sparse_triton.KINDS
CASES = [
    (name, shape, KINDS[(i + j) % 3]) for j, name in enumerate(WINDOWS) for i, shape in enumerate(SHAPES)
]
CASES += [("3x3", shape, dtype) for shape in TAILS for dtype in KINDS]
ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-11}
"""Relative. The interpreter cuts bfloat16 off where GPUs round."""
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # to inf
TILES = [1, 10**9]  # processors: the largest tile is enough, the smallest is not


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton for all types that it takes; and products of bfloat16, which numpy does not know."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if DEVICE == "cuda":
        return
    monkeypatch.setattr(kernels, "on_gpu", lambda x: sparse_triton if sparse_triton.takes(x) else None)
    assert kernels.compiled(torch.empty(0)) is None, "the twins are to be torch operators"
    monkeypatch.setattr(sparse_triton, "TILE", 4096)  # few programs: each takes long
    dot = interpreter.InterpreterBuilder.create_dot

    def widened(self, a, b, *args):
        return dot(self, *map(_wide, (a, b)), *args)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)


def _wide(x):
    if x.dtype.scalar != tl.bfloat16:
        return x
    data = (x.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(data, tl.float32)


def close(ours: Tensor, exact: Tensor) -> bool:
    """To the rounding of the result's type."""
    assert exact.dtype is torch.float64
    tolerance = ROUNDED[ours.dtype]
    return torch.allclose(ours.double(), exact, rtol=tolerance, atol=max(tolerance / 100, 3e-5))


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(DEVICE, dtype)


def chosen(count: int, *shape: int) -> Tensor:
    return torch.randint(0, count, shape).int().to(DEVICE)


def of_rows(name: str, channels: int, dtype: torch.dtype) -> tuple[Tensor, FillPlan, ActiveSites]:
    rows, plan, run, visible, _ = situation(WINDOWS[name], channels)
    there = FillPlan(plan.table.to(DEVICE), plan.sources.to(DEVICE), plan.ends)
    return rows.to(DEVICE, dtype), there, active_sites(run, visible.to(DEVICE), 3)


def wide(source: RowSource) -> RowSource:
    return RowSource(source.rows.double(), None if source.filled is None else source.filled.double())


def weights_of(out: int, each: int, kernel: tuple, groups: int, dtype: torch.dtype) -> tuple:
    """The same numbers for Triton and for the twin."""
    weight = (drawn(out, each, *kernel) / math.sqrt(each * math.prod(kernel))).to(dtype)
    bias = drawn(out, dtype=dtype)
    return tuple(kernels.prepare(weight.to(d), bias.to(d), groups) for d in (dtype, torch.float64))


@pytest.mark.parametrize("name, shape, dtype", CASES, ids=str)
def test_products(name: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Fill, and product or depthwise, with a bias, something added of which rows are chosen, and a clamp."""
    torch.manual_seed(0)
    channels, out, groups = shape
    (rows, plan, _), end = of_rows(name, channels, dtype), Activation("clamp", -1.0, 2.0)
    ours, theirs = weights_of(out, channels // groups, WINDOWS[name].kernel, groups, dtype)
    source = kernels.fill(rows, plan)
    assert filled_as_by_the_twin(rows, plan, source)
    if ours.depthwise:
        pair = (kernels.depthwise(source, plan.table, ours, end),)
        pair += (kernels.depthwise(wide(source), plan.table, theirs, end),)
    else:
        more = drawn(2 * len(plan.table), out, dtype=dtype)
        at = torch.arange(len(plan.table), dtype=torch.int32, device=DEVICE) * 2
        pair = (kernels.product(source, plan.table, ours, (more, at), end),)
        pair += (kernels.product(wide(source), plan.table, theirs, (more.double(), at), end),)
    assert pair[0].dtype is dtype and close(*pair)


def filled_as_by_the_twin(rows: Tensor, plan: FillPlan, source: RowSource) -> bool:
    """Ring by ring, as each rounds what the next one reads."""
    assert source.filled is not None and (source.filled[-1] == 0).all()
    begin, known = 0, torch.cat([rows, source.filled]).double()
    for end in plan.ends:
        listed = plan.sources[begin:end].long()
        there = (listed >= 0)[:, :, None]
        exact = torch.where(there, known[listed], 0).sum(1) / there.sum(1)
        if not close(source.filled[begin:end], exact):
            return False
        begin = end
    return begin + 1 == len(source.filled)


@pytest.mark.parametrize("processors", TILES)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_products_of_rows_themselves(dtype: torch.dtype, processors: int, monkeypatch) -> None:
    """No table, nothing added or rows for rows; rows that overlap, as those of an image do."""
    monkeypatch.setattr(sparse_triton, "_processors", lambda x: processors)
    torch.manual_seed(0)
    for count, channels, out in ((1, 3, 2), (150, 70, 140), (130, 33, 64)):
        line = drawn(count * 5 + channels, dtype=dtype)
        for rows in (line.as_strided((count, channels), (5, 1)), drawn(count, channels, dtype=dtype)):
            ours, theirs = weights_of(out, channels, (1, 1), 1, dtype)
            more, gelu = drawn(count, out, dtype=dtype), Activation("gelu")
            found = kernels.product(RowSource(rows), None, ours)
            assert close(found, kernels.product(RowSource(rows.double()), None, theirs))
            found = kernels.product(RowSource(rows), None, ours, (more, None), gelu)
            exact = kernels.product(RowSource(rows.double()), None, theirs, (more.double(), None), gelu)
            assert close(found, exact)
    point = kernels.prepare(torch.eye(3)[:, :, None, None].to(DEVICE, dtype), None, 1)  # no bias
    rows = drawn(7, 3, dtype=dtype)
    assert torch.equal(kernels.product(RowSource(rows), None, point), rows)


def test_rows_that_do_not_lie_side_by_side() -> None:
    rows, filled, table = drawn(9, 30)[:, 10:20], drawn(3, 10), chosen(12, 20, 4)
    for groups in (1, 10):
        ours, theirs = weights_of(10, 10 // groups, (2, 2), groups, torch.float32)
        what = kernels.depthwise if ours.depthwise else kernels.product
        source = RowSource(rows, filled)
        assert close(what(source, table, ours), what(wide(source), table, theirs))


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 130])
def test_other_kernels(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, plan, sites = of_rows("3x3", channels, dtype)
    table = torch.where(plan.table < len(rows), plan.table, -1)
    scale, shift, gates = (drawn(*size, channels, dtype=dtype) for size in ((), (), (4,)))
    at, which = table[:, 4].clamp(min=0), chosen(4, len(table))
    answers = []
    for kind in (dtype, torch.float64):
        x, (v, w, g) = rows.to(kind), (y.to(kind) for y in (scale, shift, gates))
        out = x.new_zeros(4, len(table), channels + 3)
        kernels.affine(x, at, v, w, RELU6, out[0, :, 2:-1])
        kernels.affine(x, at, g, None, NOTHING, out[1, :, :channels], which)
        kernels.affine(x, at, g[:1].expand(4, -1), None, NOTHING, out[2, :, :channels], which)
        kernels.affine(x, None, None, None, RELU6, out[3, : len(x), :channels])
        answers.append((out, kernels.maximum(x, table), kernels.image_means(x, sites.begins, sites.images)))
    for ours, theirs in zip(*answers, strict=True):
        assert ours.dtype is dtype and close(ours, theirs)
    assert (answers[0][2][2] == 0).all()  # an image of which nothing shows


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-200.0, -88, -1e-8, 0, 1e-8, 88, 200])])
    x = x.to(DEVICE)
    out, end = torch.empty_like(x)[:, None], Activation(name, 0.25, 4.5)
    kernels.affine(x[:, None], None, None, None, end, out)
    exact = end(x.double())
    assert ((out[:, 0] - exact).abs() <= 1e-6 * exact.abs() + 4e-7).all()


def test_nan_stays_nan() -> None:
    rows = torch.tensor([[math.nan, 1.0], [2.0, math.nan]], device=DEVICE)
    out = torch.empty_like(rows)
    for name in ACTIVATIONS:
        kernels.affine(rows, None, None, None, Activation(name, 0.0, 6.0), out)
        assert torch.equal(out.isnan(), rows.isnan()), name
    both = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32, device=DEVICE)
    assert kernels.maximum(rows, both).isnan().all()
    point = kernels.prepare(torch.eye(2, device=DEVICE)[:, :, None, None], None, 1)
    assert kernels.product(RowSource(rows), None, point, None, RELU6).isnan().any(1).all()


def test_where_nothing_shows() -> None:
    rows, none = drawn(0, 20), chosen(1, 0, 9)
    assert kernels.maximum(rows, none).shape == (0, 20)
    kernels.affine(rows, None, None, None, RELU6, torch.empty_like(rows))
    assert (kernels.image_means(rows, torch.zeros(4, dtype=torch.long, device=DEVICE), none[:, 0]) == 0).all()
    source = RowSource(rows, rows.new_zeros(1, 20))
    for groups in (1, 20):
        ours, _ = weights_of(20, 20 // groups, (3, 3), groups, torch.float32)
        what = kernels.depthwise if ours.depthwise else kernels.product
        assert what(source, none, ours).shape == (0, 20)
        bias = ours.bias
        assert bias is not None  # windows of nothing but padding
        assert torch.equal(what(source, none.new_zeros(2, 9), ours), bias.expand(2, -1))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_engines_agree(body) -> None:
    net, x = Net(body).eval().to(DEVICE), images(1).to(DEVICE)
    sparse, dense = engines(net, x, masks(x, MASKS, 1))
    assert torch.allclose(sparse, dense, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_engines_agree_on_a_network(name: str) -> None:
    torch.manual_seed(0)
    models = pytest.importorskip("torchvision").models
    model, x = getattr(models, name)().eval().to(DEVICE), drawn(2, 3, 64, 64)
    sparse, dense = engines(model, x, masks(x, ["patches"], 0))
    assert torch.allclose(sparse, dense, rtol=1e-4, atol=1e-4 * float(dense.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(Net(BODIES[0]), nn.MaxPool2d(3, 2, 1), nn.Conv2d(12, 4, 3, 2, 1)).eval()
    model, x = model.to(DEVICE, dtype), images(1).to(DEVICE, dtype)
    sparse, dense = engines(model, x, masks(x, MASKS, 1))
    assert sparse.dtype is dtype and torch.allclose(sparse, dense, atol=0.1, rtol=0.05)
