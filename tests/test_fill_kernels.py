"""Compiled fills (C, Triton) agree with the reference by torch operators, and fill in place where safe."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pairs import pair
from torch import Tensor, nn

from layermask import LayerMasking, Masked
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings
from layermask.padding import cpu as native_fill
from layermask.padding import custom_op
from layermask.padding import neighbor as fill
from layermask.padding.hide import hide_
from layermask.padding.reference import fill_dense, fill_edges
from layermask.padding.rings import NEVER

GEOMETRIES = [
    ((9,), (2,)),
    ((9, 7), (2, 2)),
    ((1, 8), (0, 3)),
    ((40, 41), (6, 6)),
    ((12, 5), (3, 1)),
    ((5, 6, 7), (2, 1, 2)),
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LAYOUTS = ("contiguous", "channels last", "sliced")
compiled = pytest.mark.skipif(not native_fill.available(), reason="no C compiler")


def value_of(size: tuple, channels: int, dtype: torch.dtype, layout: str, batch: int = 3) -> Tensor:
    x = torch.randn(batch, channels, *size).to(dtype)
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return torch.cat([x, x], 1)[:, channels // 2 : channels // 2 + channels] if layout == "sliced" else x


def mask_of(size: tuple, batch: int = 3) -> Tensor:
    """A few visible cells; all; none."""
    visible = torch.rand(batch, 1, *size) < 0.15
    visible[1:2], visible[2:3] = True, False
    return visible


def masked(
    value: Tensor, visible: Tensor, is_padding: Tensor | None = None, compat: str | None = None
) -> Masked:
    """A pair of the value's own layout, NaN where hidden."""
    visible = visible if is_padding is None else visible | is_padding
    x = Masked(value.masked_fill_(~visible, float("nan")), visible, is_padding=is_padding)
    x.forward_pass = ForwardPass(Settings(compat=compat))
    return x


def frame_of(size: tuple) -> Tensor:
    """The last two cells of every axis."""
    inner = torch.ones(1, 1, *(max(n - 2, 1) for n in size), dtype=torch.bool)
    return ~F.pad(inner, [p for n in reversed(size) for p in (0, n - max(n - 2, 1))])


def close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = TOLERANCE[ours.dtype]
    return torch.allclose(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """The same numbers, and NaN in the same places."""
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def known_by(visible: Tensor, is_padding: Tensor | None, reach: tuple) -> Tensor:
    return custom_op._rings(visible, is_padding, list(reach)) != NEVER


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", native_fill.KINDS, ids=str)
@pytest.mark.parametrize("size, reach", GEOMETRIES, ids=str)
def test_the_kernel_agrees_with_the_reference(
    size: tuple, reach: tuple, dtype: torch.dtype, layout: str
) -> None:
    torch.manual_seed(0)
    visible = mask_of(size)
    for channels in (1, 12, 70):
        for is_padding in (None, frame_of(size)):
            for compat in (None, "release"):
                x = masked(value_of(size, channels, dtype, layout), visible, is_padding, compat)
                theirs, before = fill_dense(x, reach), x.value.clone()
                with torch.no_grad():
                    ours = fill._fill_by_kernel(x, reach)
                assert ours is x.value
                known = known_by(x.visible, is_padding, reach).expand_as(ours)
                assert close(ours[known], theirs[known])
                assert ours[~known].isnan().all() or is_padding is not None, "a cell out of reach was written"
                seen = x.visible.expand_as(ours)
                assert torch.equal(ours[seen], before[seen]), "a visible cell was written"


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_hidden_is_not_read(layout: str) -> None:
    torch.manual_seed(0)
    for channels in (3, 40):
        value, visible = value_of((12, 11), channels, torch.float32, layout), mask_of((12, 11))
        found = []
        for hidden in (0.0, float("nan"), float("inf")):
            x = masked(value.clone(), visible)
            x.value.masked_fill_(~visible, hidden)
            known = known_by(visible, None, (2, 2)).expand_as(value)
            found.append(fill._fill_by_kernel(x, (2, 2))[known])
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fill_along_edges_writes_into_a_copy(layout: str) -> None:
    x = masked(value_of((12, 11), 3, torch.float32, layout), mask_of((12, 11)))
    before = x.value.clone()
    filled = fill_edges(x, (2, 2))
    assert same(x.value, before) and not same(filled, before)


@compiled
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 65504.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_that_halves_hardly_hold_are_filled_as_they_are(dtype: torch.dtype, number: float) -> None:
    value = torch.full((1, 1, 3, 3), number, dtype=dtype)
    visible = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    visible[..., 1, 1] = True
    ours = fill._fill_by_kernel(masked(torch.where(visible, value, 0), visible), (1, 1))
    assert torch.equal(ours, value) or (ours.isnan() & value.isnan()).all()


@compiled
def test_an_infinite_visible_cell_stays_among_its_neighbours() -> None:
    value, visible = torch.zeros(1, 12, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool)
    visible[..., 3:6, 3:6], value[..., 0, 0] = False, float("inf")
    assert fill._fill_by_kernel(masked(value, visible), (2, 2))[..., 3:6, 3:6].eq(0).all()


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_fills_as_its_images_do(threads: int, layout: str) -> None:
    """Bit for bit, with any number of threads."""
    torch.manual_seed(0)
    value, visible = value_of((14, 13), 130, torch.float32, layout), mask_of((14, 13))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = fill._fill_by_kernel(masked(value.clone(), visible), (2, 2))
        torch.set_num_threads(1)
        for n in range(3):
            alone = masked(value.clone()[n : n + 1], visible[n : n + 1])
            assert same(fill._fill_by_kernel(alone, (2, 2))[0], together[n])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(0, 12, 9, 9), (2, 0, 9, 9), (2, 12, 0, 9)])
def test_nothing_to_fill(shape: tuple) -> None:
    value, visible = torch.randn(shape), torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    assert fill.neighbor(masked(value, visible), (2, 2)).shape == shape


@pytest.mark.parametrize("size, reach", GEOMETRIES, ids=str)
def test_the_operators_agree_without_a_kernel(size: tuple, reach: tuple) -> None:
    torch.manual_seed(0)
    value, visible = value_of(size, 12, torch.float32, "contiguous"), mask_of(size)
    for is_padding in (None, frame_of(size)):
        x = masked(value, visible, is_padding)
        rings, ours = custom_op._rings(x.visible, is_padding, list(reach)), value.clone()
        custom_op._fill_(ours, rings, list(reach), 0.0)
        known = (rings != NEVER).expand_as(ours)
        assert close(ours[known], fill_dense(x, reach)[known])
        if native_fill.available():
            assert torch.equal(rings, native_fill.rings(x.visible, is_padding, reach))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*native_fill.KINDS, torch.int32], ids=str)
@pytest.mark.parametrize("size", [(9,), (9, 7), (4, 5, 6)], ids=str)
def test_hiding_writes_hidden_cells_alone(size: tuple, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    value, visible = value_of(size, 12, dtype, layout), mask_of(size)
    for mask in (visible, visible[:1], visible[:, :, :1], visible.expand(-1, 12, *size)):
        for number in (0.0, -7.0):
            wanted = torch.where(mask, value, torch.tensor(number, dtype=dtype))
            assert hide_(value, mask, number) is value and torch.equal(value, wanted)


def test_a_max_pool_reads_nothing_hidden_and_leaves_nothing_infinite() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        x = inner()
        before = x.value.clone()
        theirs = F.max_pool2d(torch.where(x.visible, before, -torch.inf), 3, 2, 1)
        ours = F.max_pool2d(x, 3, 2, 1)
        assert torch.equal(ours.value[ours.visible.expand_as(theirs)], theirs[theirs.isfinite()])
        assert x.value[~x.visible.expand_as(before)].eq(0).all() and ours.value.isfinite().all()
        assert torch.equal(x.value[x.visible.expand_as(before)], before[x.visible.expand_as(before)])


# --- in place -------------------------------------------------------------------------------------------


def conv(x: Masked) -> Masked:
    return F.conv2d(x, torch.ones(8, x.shape[1], 3, 3), padding=1)


def inner(batch: int = 2) -> Masked:
    """A pair as it is in the midst of a model: nothing else holds its value."""
    torch.manual_seed(0)
    return pair(torch.randn(batch, 12, 9, 9), mask_of((9, 9), batch)) + 0


@compiled
def test_a_value_of_our_own_is_filled_in_place() -> None:
    with torch.no_grad():
        x = inner()
        before = x.value.clone()
        conv(x)
        assert not same(x.value, before)
        seen = x.visible.expand_as(before)
        assert torch.equal(x.value[seen], before[seen])


@pytest.mark.parametrize(
    "act",
    [
        lambda x: F.relu(x, inplace=True),
        lambda x: F.hardtanh(x, -9, 9, inplace=True),
        lambda x: x.contiguous(),
    ],
    ids=["relu", "hardtanh", "contiguous"],
)
def test_what_gives_back_its_argument_gives_back_the_pair(act: Callable) -> None:
    """As torch does: so its value is still held once only."""
    with torch.no_grad():
        x = inner()
        y = act(x)
    assert y is x and not y.aliased


@pytest.mark.parametrize("hold", ["a view", "autograd", "an expansion"])
def test_a_value_that_is_held_elsewhere_is_not(hold: str) -> None:
    with torch.set_grad_enabled(hold == "autograd"):
        x = inner(1)
        x = x.expand(3, -1, -1, -1) if hold == "an expansion" else x
        view = x[:, :4] if hold == "a view" else None
        before = x.value.clone()
        conv(x)
        assert same(x.value, before) and (view is None or same(view.value, before[:, :4]))


def test_a_held_value_whose_mask_is_a_row_is_not() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        x = pair(torch.randn(2, 12, 9, 9), torch.rand(2, 1, 1, 9) < 0.4) + 0
        view, before = x[:, :4], x.value.clone()
        conv(x)
    assert same(view.value, before[:, :4])


def test_the_users_images_are_left_alone() -> None:
    images, visible = torch.randn(2, 12, 9, 9), mask_of((9, 9), 2)
    before = images.clone()
    with torch.no_grad():
        LayerMasking(nn.Conv2d(12, 4, 3).eval())(images, visible)
        conv(Masked(images, visible))
        fill.neighbor(Masked(images, visible), (2, 2))
    assert torch.equal(images, before)


def test_two_reaches_of_one_value_do_not_meet() -> None:
    """Filled in place for a small window, then for a large one and a small one again."""
    with torch.no_grad():
        x, y = inner(), inner()
        for size in (3, 7, 3):
            weight = torch.randn(4, 12, size, size)
            ours = F.conv2d(x, weight, padding=size // 2)
            fresh = Masked(y.value.clone(), y.visible)
            theirs = F.conv2d(fresh, weight, padding=size // 2)
            seen = ours.visible.expand_as(ours.value)
            assert torch.equal(ours.value[seen], theirs.value[seen])


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own
def test_forward_derivatives_pass_through() -> None:
    with torch.autograd.forward_ad.dual_level():
        value, visible = torch.randn(2, 12, 9, 9), mask_of((9, 9), 2)
        dual = torch.autograd.forward_ad.make_dual(value, torch.ones_like(value))
        out = conv(Masked(dual, visible)).value
        assert torch.autograd.forward_ad.unpack_dual(out).tangent is not None


# --- without a compiler, and on other devices --------------------------------------------------------------

WITHOUT = """
import torch
from layermask import LayerMasking
from layermask.padding import neighbor as fill
from layermask import kernels as native
from layermask.core.masked import Masked
assert native.library() is None
torch.manual_seed(0)
x, visible = torch.randn(2, 12, 9, 9), torch.rand(2, 1, 9, 9) < 0.5
pair = Masked(x, visible)
assert fill._way(pair, (2, 2)) is fill.fill_edges
with torch.no_grad():
    out = LayerMasking(torch.nn.Conv2d(12, 3, 3).requires_grad_(False))(x, visible)
torch.save(out, {path!r})
"""


@compiled
def test_without_a_compiler_torch_operators_give_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "out.pt")
    run(WITHOUT.format(path=path), LAYERMASK_NATIVE="0")
    torch.manual_seed(0)
    x, visible = torch.randn(2, 12, 9, 9), torch.rand(2, 1, 9, 9) < 0.5
    assert fill._way(Masked(x, visible), (2, 2)) is fill._fill_by_kernel
    with torch.no_grad():
        ours = LayerMasking(nn.Conv2d(12, 3, 3).requires_grad_(False))(x, visible)
    assert torch.allclose(ours, torch.load(path), atol=1e-5)


INTERPRETED = """
import sys
sys.path.insert(0, {tests!r})
import torch
from layermask.kernels.signatures import KINDS
from layermask.padding import custom_op
from layermask.padding.reference import fill_dense, fill_edges
from layermask.padding.rings import NEVER
from layermask.kernels.triton import fill as fill_triton
from test_fill_kernels import close, frame_of, mask_of, masked, value_of

torch.manual_seed(0)
CASES = [((9,), (2,), 5), ((7, 8), (2, 2), 5), ((20, 60), (0, 3), 1), ((9, 8), (6, 6), 3)]
CASES += [((3, 4, 5), (2, 1, 2), 2)]
for number, (size, reach, channels) in enumerate(CASES):
    visible = mask_of(size)
    for dtype in KINDS:
        for is_padding in (None, frame_of(size))[: 1 + (dtype is torch.float32)]:
            layout = ("contiguous", "channels last")[(number + (dtype is torch.bfloat16)) % 2]
            x = masked(value_of(size, channels, dtype, layout), visible, is_padding)
            rings = fill_triton.rings(x.visible, is_padding, reach)
            assert torch.equal(rings, custom_op._rings(x.visible, is_padding, list(reach))), (size, reach)
            ours, known = x.value.clone(), (rings != NEVER).expand_as(x.value)
            fill_triton.fill_(ours, rings, reach, 0.0)
            assert close(ours[known], fill_dense(x, reach)[known]), (size, dtype, layout)
            seen = x.visible.expand_as(ours)
            assert torch.equal(ours[seen], x.value[seen]), (size, dtype, layout)
x = masked(value_of((5, 4), 300, torch.float32, "channels last"), mask_of((5, 4)))
rings, ours = fill_triton.rings(x.visible, None, (2, 2)), x.value.clone()
fill_triton.fill_(ours, rings, (2, 2), 1e-5)
assert ours[(rings != NEVER).expand_as(ours)].isfinite().all()
"""


def test_the_triton_kernel_agrees_in_its_interpreter() -> None:
    pytest.importorskip("triton")
    run(INTERPRETED.format(tests=str(Path(__file__).parent)), TRITON_INTERPRET="1")


def run(code: str, **environment: str) -> None:
    source = str(Path(fill.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
