"""The sparse engine: its kernels against their twins, its answers against the dense engine's, its choices."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_blocks import BLOCKS, Chain, chain, images
from torch import Tensor, nn

from layermask import LayerMasking, Masked, Settings
from layermask.check.samples import masks
from layermask.core.forward_pass import ForwardPass
from layermask.core.window import Window, grow
from layermask.kernels import library
from layermask.kernels.activation import ACTIVATIONS
from layermask.removal import layer_masking
from layermask.sparse import ops as kernels
from layermask.sparse import plan as plans
from layermask.sparse.active import active_sites, plan_of
from layermask.sparse.engine import SparseEngine
from layermask.sparse.graph import Conv
from layermask.sparse.value import SparseMasked

needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler: nothing to compare with")
RELU6 = kernels.Activation("clamp", 0.0, 6.0)
MASKS = ["patches", "all", "coarse", "none", "pixel"]


@pytest.fixture(autouse=True)
def seeded_and_without_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


# --- kernels against their twins in torch operators ----------------------------------------------------


def window(kernel, stride=(1, 1), before=(0, 0), after=None) -> Window:
    return Window(kernel, stride, before, before if after is None else after, (1, 1))


WINDOWS = {
    "point": window((1, 1)),
    "strided point": window((1, 1), (2, 2)),
    "3x3": window((3, 3), before=(1, 1)),
    "3x5, strided": window((3, 5), (2, 1), (1, 2)),
    "even": window((4, 2), (1, 2), (1, 0), (2, 1)),
    "7x7": window((7, 7), before=(3, 3)),
}
# channels, outputs, groups: less and more than a panel of columns, one tile and several
SHAPES = [(5, 3, 1), (40, 70, 1), (200, 64, 1), (16, 24, 2), (20, 20, 20), (130, 130, 130)]


def situation(window: Window, channels: int):
    """Rows at random visible cells, and the plan of what a window op reads of them."""
    run, draw = ForwardPass(), torch.Generator().manual_seed(channels)
    visible = (torch.rand(3, 1, 13, 11, generator=draw) < 0.3) & torch.tensor([True, True, False]).view(
        3, 1, 1, 1
    )
    x = Masked(visible.float(), visible)
    x.forward_pass = run
    grown = grow(x, window)[0]
    rows = torch.randn(active_sites(run, visible, 3).count, channels, generator=draw)
    return rows, plan_of(run, visible, grown, window, 3), run, visible, grown


@needs_compiler
@pytest.mark.parametrize("name", WINDOWS)
def test_plans_are_those_of_torch_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours, run, visible, grown = situation(WINDOWS[name], 4)
    monkeypatch.setattr(plans, "library", lambda: None)
    run.memo.clear()
    theirs = plan_of(run, visible, grown, WINDOWS[name], 3)
    assert ours.ends == theirs.ends
    assert len(ours.sources) == len(theirs.sources) and len(ours.table) == len(theirs.table)
    rows = torch.randn(active_sites(run, visible, 3).count, 1, dtype=torch.float64)  # each unlike the others
    windows = [kernels.fill(rows, plan).all()[plan.table.long()] for plan in (ours, theirs)]
    assert torch.allclose(*windows, rtol=0, atol=1e-12)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours.double(), theirs.double(), rtol=1e-5, atol=3e-5)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WINDOWS)
def test_products_are_those_of_torch_operators(name: str, shape: tuple[int, int, int]) -> None:
    """With a bias, something added of which rows are chosen, and a clamp; in float64 the twin runs."""
    channels, out, groups = shape
    rows, plan, *_ = situation(WINDOWS[name], channels)
    kernel = WINDOWS[name].kernel
    weight = torch.randn(out, channels // groups, *kernel) / math.sqrt(channels // groups * math.prod(kernel))
    bias = torch.randn(out)
    answers, end = [], kernels.Activation("clamp", -1.0, 2.0)
    for dtype in (torch.float32, torch.float64):
        weights = kernels.prepare(weight.to(dtype), bias.to(dtype), groups)
        source = kernels.fill(rows.to(dtype), plan)
        if weights.depthwise:
            answers.append(kernels.depthwise(source, plan.table, weights, end))
        else:
            more = torch.randn(2 * len(plan.table), out, generator=torch.Generator().manual_seed(0)).to(dtype)
            chosen = torch.arange(len(plan.table), dtype=torch.int32) * 2
            answers.append(kernels.product(source, plan.table, weights, (more, chosen), end))
    assert close(*answers)
    assert answers[0].min() == -1 and answers[0].max() == 2


@needs_compiler
@pytest.mark.parametrize("channels", [1, 5, 16, 100])
def test_other_kernels_are_those_of_torch_operators(channels: int) -> None:
    rows, plan, run, visible, _ = situation(WINDOWS["3x3"], channels)
    sites = active_sites(run, visible, 3)
    table = torch.where(plan.table < len(rows), plan.table, -1)
    scale, shift = torch.randn(channels), torch.randn(channels)
    pairs = []
    for dtype in (torch.float32, torch.float64):
        x = rows.to(dtype)
        wide = x.new_zeros(len(table), channels + 3)
        at = table[:, 4].clamp(min=0)
        kernels.affine(x, at, scale.to(dtype), shift.to(dtype), RELU6, wide[:, 2:-1])
        pairs.append((kernels.maximum(x, table), wide, kernels.image_means(x, sites.begins, sites.images)))
    for ours, theirs in zip(*pairs, strict=True):
        assert close(ours, theirs)
    assert (pairs[0][2][2] == 0).all()  # an image of which nothing shows


@needs_compiler
@pytest.mark.parametrize("normed", [True, False])
def test_rows_side_by_side_are_those_of_torch_operators(normed: bool) -> None:
    answers, end = [], kernels.Activation("leaky_relu", 0.1)
    parts = [(torch.randn(40, 17), None), (torch.randn(90, 64), torch.randint(0, 90, (40,)).int())] * 2
    norm = torch.randn(162), torch.randn(162)
    for dtype in (torch.float32, torch.float64):
        cast = [(rows.to(dtype), at) for rows, at in parts]
        given = (norm[0].to(dtype), norm[1].to(dtype)) if normed else None
        answers.append(kernels.side_by_side(cast, given, end))
    chosen = torch.cat([rows if at is None else rows[at.long()] for rows, at in parts], 1).double()
    assert close(*answers) and close(answers[0], end(chosen * norm[0] + norm[1] if normed else chosen))


@needs_compiler
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch(name: str) -> None:
    x = torch.cat([torch.linspace(-30, 30, 9973), torch.tensor([-200.0, -88, -1e-8, 0, 1e-8, 88, 200])])[
        :, None
    ]
    ours, end = torch.empty_like(x), kernels.Activation(name, 0.25, 4.5)
    kernels.affine(x, None, None, None, end, ours)
    exact = end(x.double())
    assert ((ours - exact).abs() <= 3e-7 * exact.abs() + (4e-7 if name == "gelu" else 1e-37)).all()


@needs_compiler
def test_gates_are_those_of_torch_operators() -> None:
    rows, gates = torch.randn(50, 21), torch.randn(4, 21)
    at, images = torch.randint(0, 50, (30,)).int(), torch.randint(0, 4, (30,)).int()
    out = torch.empty(30, 21)
    kernels.affine(rows, at, gates, None, kernels.NOTHING, out, images)
    assert torch.equal(out, rows[at.long()] * gates[images.long()])


@needs_compiler
@pytest.mark.parametrize("channels", [1, 5, 16, 100])
def test_layer_norms_are_those_of_torch_operators(channels: int) -> None:
    """Of rows that lie far from zero, too."""
    rows, at = torch.randn(50, channels) + 100, torch.randint(0, 50, (30,)).int()
    weight, bias = torch.randn(channels), torch.randn(channels)
    for chosen, vectors in ((None, (weight, bias)), (at, (weight, None)), (at, (None, bias))):
        ours, theirs = (
            kernels.layer_norm(
                rows.to(dtype), chosen, *(v if v is None else v.to(dtype) for v in vectors), 1e-6
            )
            for dtype in (torch.float32, torch.float64)
        )
        assert torch.allclose(ours.double(), theirs, atol=1e-4)


@needs_compiler
def test_nan_stays_nan() -> None:
    """A model that overflows must not look fine: clamps and maxima keep NaN, as torch's do."""
    rows = torch.tensor([[math.nan, 1.0], [2.0, math.nan]])
    out = torch.empty_like(rows)
    for name in ACTIVATIONS:
        kernels.affine(rows, None, None, None, kernels.Activation(name, 0.0, 6.0), out)
        assert torch.equal(out.isnan(), rows.isnan()), name
    assert kernels.maximum(rows, torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)).isnan().all()
    point = kernels.prepare(torch.eye(2)[:, :, None, None], None, 1)
    assert kernels.product(kernels.RowSource(rows), None, point, None, RELU6).isnan().any(1).all()


# --- answers -------------------------------------------------------------------------------------------


def engines(model: nn.Module, x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(LayerMasking(model, engine=engine)(x, visible) for engine in ("sparse", "dense"))  # type: ignore


def assert_engines_agree(model: nn.Module, seed: int) -> None:
    model, x = model.double().eval(), images(seed).double()
    sparse, dense = engines(model, x, masks(x, MASKS, seed))
    assert torch.allclose(sparse, dense, rtol=1e-9, atol=1e-9 * float(dense.abs().max()))


@pytest.mark.parametrize("name", BLOCKS)
def test_engines_agree_on_a_block(name: str) -> None:
    assert_engines_agree(Chain([name, name], "pooled"), 0)


@pytest.mark.parametrize("seed", range(60))
def test_engines_agree_on_chains_of_blocks(seed: int) -> None:
    assert_engines_agree(chain(seed), seed)


class Net(nn.Module):
    """A stem, then what the test does to its output."""

    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body = nn.Conv2d(3, 12, 3, padding=1), body
        self.norm, self.conv = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1)
        self.scale, self.grid = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12, 1, 1))
        self.each = nn.Parameter(torch.randn(5, 12, 1, 1))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.stem(x))


def held(net: Net, x: Tensor) -> Tensor:
    """The convolution's output is read before and behind norm and clamp."""
    y = net.norm(x)
    z = F.relu(y)
    return x + y * 2 + z


def in_place_seen_by_views(net: Net, x: Tensor) -> Tensor:
    view = x[:, :6]
    x.relu_()
    return torch.cat([view, x], 1)


def in_place_of_a_result(net: Net, x: Tensor) -> Tensor:
    y = net.norm(x)
    z = F.relu(y, inplace=True)
    y += x
    return y * z


def in_place_not_seen(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    x.mul_(3)
    return y + x


def doubled(net: Net, x: Tensor) -> Tensor:
    return net.conv(x) + net.norm(net.conv(x)).relu_() + net.conv.weight.sum()


def changed_weights(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    y = y + net.conv(y)
    return y - x.mean((2, 3), keepdim=True) * y.mean((-2, -1), keepdim=True)


def layer_scale(net: Net, x: Tensor) -> Tensor:
    """By a parameter as it is, and by views of it: of all of it, in another order of axes, and of a part."""
    x = x + net.scale[:, None, None] * net.conv(x)
    y = net.conv(x).permute(0, 2, 3, 1) * net.scale
    z = net.conv(F.relu(x)) * net.grid * net.grid.flip(0)
    each = net.each[: len(x)] * net.conv(x)  # another one for each image
    return each + y.permute(0, 3, 1, 2) + z * torch.cat([net.scale[:6], net.scale[:6]]).reshape(1, -1, 1, 1)


def in_place_in_a_slice(net: Net, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    again = x[:, 2:8]
    first.relu_()
    second.exp_()  # which has no sparse form
    return torch.cat([x, again, first], 1) * 2


def in_place_under_slices(net: Net, x: Tensor) -> Tensor:
    slices = x.split([4, 8], 1)
    last = x.permute(0, 2, 3, 1)
    x += 1
    return torch.cat([*slices, last.permute(0, 3, 1, 2)], 1)


def in_place_beside_slices(net: Net, x: Tensor) -> Tensor:
    first, second = net.conv(x).chunk(2, 1)
    second.relu_()
    return first - second


def in_place_behind_a_norm(net: Net, x: Tensor) -> Tensor:
    y = net.norm(x)
    last = y.permute(0, 2, 3, 1)
    last *= 2
    return y + x


def global_response(net: Net, x: Tensor) -> Tensor:
    t = x.permute(0, 2, 3, 1)
    norm = t.norm(p=2, dim=(1, 2), keepdim=True)
    norm = norm / (norm.mean(-1, keepdim=True) + 1e-6)
    return torch.addcmul(net.norm.running_mean, net.norm.running_var, t * norm).permute(0, 3, 1, 2)


def read_in_part_and_then_whole(net: Net, x: Tensor) -> Tensor:
    """The convolution asks for cells that both operands show, and what is returned for all of one."""
    y = F.relu(net.norm(x))
    net.conv(y + torch.roll(x, (3, 2), (2, 3)))
    return y * 2


def operands_written_later(net: Net, x: Tensor) -> Tensor:
    """What is put off must not see what is done meanwhile."""
    rolled = torch.roll(x, (1, 2), (2, 3))  # which has no sparse form
    gate, number, kernel = x.mean((2, 3), keepdim=True), torch.tensor(2.0), net.conv.weight[:, :, 1:2, 1:2]
    y = F.conv2d(rolled, kernel) + (x + rolled) * gate * number
    for operand in (rolled, gate, number):
        operand.mul_(5)
    return y - rolled


def all_kinds_of_indices(net: Net, x: Tensor) -> Tensor:
    n = torch.arange(len(x))
    sums = x[..., :3].sum() + x[:, 2].sum() + x[:, 1::2].sum() + x[:, [1, 3]].sum() + x[:, :, 1:].sum()
    images = x[0][None] + x[n]
    return x[:, -4:] * sums + x[:, :4, :, :] + x[:, :4, ...] + images[:, 4:8]


def other_names_of_arguments(net: Net, x: Tensor) -> Tensor:
    """Calls that torch takes and no sparse form spells out."""
    y = torch.permute(x, dims=(0, 2, 3, 1)).permute(dims=(0, 3, 1, 2)) * x.size(dim=2)
    return torch.dropout(y, p=0.5, train=False) + torch.add(input=x, other=y)


def slices_that_meet(net: Net, x: Tensor) -> Tensor:
    """ReXNet: some channels of a branch that has grown meet the shortcut, the others do not."""
    y = net.norm(net.conv(x))
    return torch.cat([y[:, :5] + x[:, :5], y[:, 5:]], 1)


def expanded_gate(net: Net, x: Tensor) -> Tensor:
    """One vector for all images, expanded."""
    return net.conv(x * net.norm.running_var.view(1, -1, 1, 1).expand(len(x), -1, -1, -1))


BODIES = [
    read_in_part_and_then_whole,
    operands_written_later,
    all_kinds_of_indices,
    expanded_gate,
    other_names_of_arguments,
    slices_that_meet,
    in_place_in_a_slice,
    in_place_under_slices,
    in_place_beside_slices,
    in_place_behind_a_norm,
    global_response,
    held,
    in_place_seen_by_views,
    in_place_of_a_result,
    in_place_not_seen,
    doubled,
    changed_weights,
    layer_scale,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_putting_off_changes_nothing(body: Callable, dtype: torch.dtype) -> None:
    net, x = Net(body).eval().to(dtype), images(1).to(dtype)
    sparse, dense = engines(net, x, masks(x, MASKS, 1))
    assert torch.allclose(sparse, dense, atol=1e-4 if dtype is torch.float32 else 1e-10)


def _filter(*shape: int) -> Tensor:
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        / math.prod(shape[1:]) ** 0.5
    )


def _normed(x: Tensor) -> Tensor:
    """A batch norm in evaluation, of vectors that are all unlike."""
    vectors = [_filter(x.shape[1], 4)[:, i].to(x.device, x.dtype) for i in range(4)]
    return F.batch_norm(x, vectors[0], vectors[1].abs() + 0.5, vectors[2], vectors[3])


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute((0, 2, 3, 1)),
    "torch.permute": lambda x: torch.permute(x, (0, -2, -1, 1)).permute(0, 3, 1, 2),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "hardtanh in place": lambda x: F.hardtanh(x, max_val=0.3, inplace=True),
    "relu6": lambda x: F.relu6(x, True),
    "leaky relu": lambda x: F.leaky_relu(x, 0.3, inplace=True),
    "gelu": F.gelu,
    "gelu with tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "silu": lambda x: F.silu(x, inplace=True),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "split in threes": lambda x: torch.cat(x.split(5, 1)[::-1], 1),
    "split in sizes": lambda x: torch.cat(torch.split(x, [3, 7, 2], dim=-3)[::-1], -3),
    "one part": lambda x: torch.cat([x], 1),
    "chunks": lambda x: torch.cat([y * 2 for y in x.chunk(5, dim=1)], 1),
    "channels": lambda x: x[:, 1:-2],
    "every second channel": lambda x: x[:, ::2],
    "no channel": lambda x: x[:, 4:4].sum() + x,
    "channels from the end": lambda x: x[:, -3:, :, :] + x[:, :3, ...],
    "mean": lambda x: x.mean((2, 3)),
    "mean, from behind": lambda x: x.mean([-1, -2], keepdim=True),
    "mean of channels last": lambda x: x.permute(0, 2, 3, 1).mean(dim=(1, 2), keepdim=True),
    "mean of columns": lambda x: x.mean(3),
    "norm": lambda x: torch.norm(x, dim=(2, 3), keepdim=True),
    "norm of 3": lambda x: x.norm(3, (2, 3)),
    "max pool": lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True),
    "dilated max pool": lambda x: F.max_pool2d(x, 3, 1, dilation=2),
    "average pool": lambda x: F.avg_pool2d(x, (2, 3)),
    "average pool with padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool beyond the end": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "average pool of a divisor": lambda x: F.avg_pool2d(x, 3, divisor_override=5),
    "average pool of all": lambda x: F.avg_pool2d(x, tuple(x.shape[2:])),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
    "adaptive pool to more": lambda x: F.adaptive_avg_pool2d(x, (2, 1)),
    "conv behind padding": lambda x: F.conv2d(
        F.pad(x, (1, 0, 2, 1)), _filter(6, 12, 3, 5).to(x), padding=(1, 0)
    ),
    "strided conv behind padding": lambda x: F.conv2d(
        F.pad(x, (0, 2, 1, 0)), _filter(6, 12, 3, 3).to(x), stride=2
    ),
    "point behind padding": lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), _filter(6, 12, 1, 1).to(x)),
    "padded": lambda x: F.pad(x, (3, 0, 1, 2)) * F.pad(x, (3, 0, 1, 2)).size(3),
    "groups": lambda x: F.conv2d(x, _filter(6, 4, 3, 3).to(x), groups=3, padding=1),
    "depthwise": lambda x: F.conv2d(x, _filter(12, 1, 5, 3).to(x), groups=12, padding=(2, 1), stride=(1, 2)),
    "depthwise, two each": lambda x: F.conv2d(x, _filter(24, 1, 3, 3).to(x), groups=12, padding="same"),
    "dilated": lambda x: F.conv2d(x, _filter(6, 12, 3, 2).to(x), dilation=(2, 3), padding=(2, 1)),
    "dropout": lambda x: F.dropout(x, 0.3, training=False),
    "dropout of all": lambda x: F.dropout(x, 1.0, training=True),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last) + x.contiguous(),
    "sum of three": lambda x: torch.add(x, x.relu(), alpha=2) + F.relu(x),
    "another mask": lambda x: x + F.max_pool2d(x, 3, 1, 1),
    "norm of parts": lambda x: _normed(torch.cat([x, F.conv2d(x, _filter(6, 12, 1, 1).to(x))], 1)),
    "clamped norm of parts": lambda x: F.relu(_normed(torch.cat([x[:, :6], x, F.gelu(x)], 1))),
    "norm of a slice": lambda x: F.relu6(_normed(x[:, 2:9])),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (12,)),
    "layer norm of two axes": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[3], 12)),
    "rows of a layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (12,)).view(-1, 12),
    "rows of a linear layer": lambda x: F.linear(x.permute(0, 2, 3, 1), _filter(5, 12).to(x)).view(-1, 5),
    "linear, turned back": lambda x: F.linear(x.permute(0, 2, 3, 1), _filter(5, 12).to(x)).permute(
        0, 3, 1, 2
    ),
    "complex numbers": lambda x: torch.exp(x * 1j).imag + (x + 2j).real,
    "other precisions": lambda x: x.float() * x + x.half(),
    "convolutions of two precisions": lambda x: F.conv2d(x.float(), _filter(6, 12, 1, 1).float()) + x[:, :6],
    "a number of a higher kind": lambda x: torch.view_as_real(x * torch.tensor(2j))[..., 1],
}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_answers_as_the_dense_engine(name: str, last: bool) -> None:
    """Value, mask and shape, of maps that are not square."""
    net, x = Net(lambda net, x: SPELLINGS[name](net.norm(x))).double().eval(), images(1)[..., :-3].double()
    form = torch.channels_last if last else torch.contiguous_format
    visible, seen = masks(x, MASKS, 1), []
    net.register_forward_hook(lambda module, inputs, out: seen.append((out.shape, out.value, out.visible)))
    for engine in ("sparse", "dense"):
        LayerMasking(net.to(memory_format=form), engine=engine)(x.to(memory_format=form), visible)
    (shape, sparse, ours), (_, dense, theirs) = seen
    assert shape == sparse.shape == dense.shape
    assert sparse.dtype == dense.dtype
    assert all(n == 1 or a == b for n, a, b in zip(shape, sparse.stride(), dense.stride(), strict=True))
    assert torch.equal(ours.expand(shape), theirs.expand(shape))
    near = 1e-2 if name == "other precisions" else 1e-5 if name.endswith("precisions") else 1e-10
    assert torch.allclose(torch.where(ours, sparse, 0), torch.where(theirs, dense, 0), rtol=near, atol=near)


STEMS = {
    "even": ((4, 2), "same", (1, 1)),
    "one row": ((1, 5), (0, 2), (1, 2)),
    "one column": ((3, 1), (1, 0), (2, 1)),
    "patches": ((4, 4), (0, 0), (4, 4)),
    "no padding": ((3, 2), "valid", (2, 3)),
    "wide padding": ((5, 5), (1, 2), (1, 1)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("channels", [1, 3, 8, 9])
def test_stems_answer_as_the_dense_engine(channels: int, name: str) -> None:
    """The first convolution, of few channels and of more, with windows that are not square."""
    kernel, padding, stride = STEMS[name]
    stem = nn.Conv2d(channels, 12, kernel, stride, padding).double()
    x = torch.randn(5, channels, 24, 21, dtype=torch.float64)
    visible = masks(x, MASKS, 1)
    sparse, dense = engines(nn.Sequential(stem, nn.ReLU(), nn.Conv2d(12, 5, 3).double()), x, visible)
    assert torch.allclose(sparse, dense, rtol=1e-10, atol=1e-10)


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "negative padding": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), padding=-1),
    "same padding of strides": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), stride=2, padding="same"),
    "unknown padding": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), padding="some"),
    "no stride": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), stride=0),
    "no groups": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), groups=0),
    "three strides": lambda x: F.conv2d(x, _filter(6, 12, 3, 3).to(x), stride=(1, 1, 1)),
    "a pool's padding": lambda x: F.max_pool2d(x, 3, 1, 2),
    "a pool's stride": lambda x: F.max_pool2d(x, 3, 0),
    "a pool's kernel": lambda x: F.avg_pool2d(x, -3),
    "a fifth axis to permute": lambda x: x.permute(0, 2, 3, 5),
    "a fifth axis to join": lambda x: torch.cat([x, x], 5),
    "an eighth axis to reduce": lambda x: x.mean((2, 7)),
    "no chunks": lambda x: x.chunk(0, 1),
    "sections of nothing": lambda x: x.split(0, 1),
    "limits the wrong way round": lambda x: F.hardtanh(x, 1.0, -1.0),
    "a probability of two": lambda x: F.dropout(x, 2.0, False),
    "a truth for a size": lambda x: F.adaptive_avg_pool2d(x, True),
    "text": lambda x: x * "2",
    "nothing": lambda x: x + None,
    "complex numbers in place": lambda x: x.add_(1j),
}


@pytest.mark.parametrize("engine", [None, "dense", "sparse"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_every_engine_refuses(name: str, engine: str | None) -> None:
    net, x = Net(lambda net, x: REFUSED[name](net.norm(x))).eval(), images(1)
    with pytest.raises((RuntimeError, IndexError, ValueError, TypeError)):
        LayerMasking(net, engine=engine)(x, masks(x, MASKS, 1)) if engine else net(x)


def test_long_chains_are_computed_in_pieces() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        for _ in range(400):
            x = x + torch.tanh(x) * 0.01
        return x

    net, x = Net(body).double().eval(), images(1).double()
    sparse, dense = engines(net, x, masks(x, MASKS, 1))
    assert torch.allclose(sparse, dense, atol=1e-9)


@needs_compiler
def test_silu_of_large_numbers_is_torchs() -> None:
    x = torch.tensor([[-3e38, -1e35, -100.0, -88.1, -87.9, -20.0, 3e38, math.inf, -math.inf, math.nan]])
    out = torch.empty_like(x)
    kernels.affine(x, None, None, None, kernels.Activation("silu"), out)
    assert torch.allclose(out, F.silu(x), rtol=1e-5, atol=1e-30, equal_nan=True)


PARTS: list[Callable] = [lambda p: torch._neg_view(p), lambda p: p.as_strided((12, 1, 1), (1, 1, 1), 12)]


@pytest.mark.parametrize("part", PARTS, ids=["negative", "the other half"])
def test_views_of_a_parameter_are_not_the_parameter(part: Callable) -> None:
    half = nn.Parameter(torch.randn(24, dtype=torch.float64)[:12].view(12, 1, 1))
    net, x = Net(lambda net, x: x * part(half)).double().eval(), images(1).double()
    sparse, dense = engines(net, x, masks(x, MASKS, 1))
    assert torch.allclose(sparse, dense, atol=1e-12)


def test_hooks_may_look_and_change(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net(held).double().eval(), images(1).double()
    visible = masks(x, MASKS, 1)
    before = engines(net, x, visible)[1]
    net.norm.register_forward_hook(lambda module, inputs, output: output * 2)
    sparse, dense = engines(net, x, visible)
    assert torch.allclose(sparse, dense) and not torch.allclose(dense, before)


def test_a_norm_shared_by_hooks_is_kept_apart() -> None:
    """What somebody holds is computed for itself, and only once."""
    net, x, seen = Net(held).double().eval(), images(1).double(), []
    net.stem.register_forward_hook(lambda module, inputs, output: seen.append(output))
    visible = masks(x, MASKS, 1)
    sparse, dense = engines(net, x, visible)
    assert torch.allclose(sparse, dense)
    (first, second) = seen
    assert isinstance(first, SparseMasked) and not isinstance(second, SparseMasked)
    assert torch.allclose(first.value, torch.where(second.visible, second.value, 0.0))


def test_what_several_read_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution takes in what is behind it only where nobody else reads it."""
    calls, fused = [], Conv.fused
    monkeypatch.setattr(Conv, "fused", lambda self, *args: calls.append(args) or fused(self, *args))
    net, x = Net(held).double().eval(), images(1).double()
    LayerMasking(net, engine="sparse")(x, masks(x, MASKS, 1))
    assert len(calls) == 1 and calls[0][1] == []
    calls.clear()
    net.body = lambda net, x: F.relu(net.norm(x) + 0 * net.norm(net.conv(x)))
    kept = []
    net.norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    LayerMasking(net, engine="sparse")(x, masks(x, MASKS, 1))
    assert [len(norms) for _, norms, _, _ in calls] == [0, 1]  # the stem is read twice, the other once


def test_weights_prepared_once_follow_the_model() -> None:
    net, x = Net(changed_weights).eval(), images(1)
    visible, removal = masks(x, MASKS, 1), LayerMasking(net, engine="sparse")
    first, kept = removal(x, visible), dict(removal.sparse_engine.prepared._kept)
    assert torch.equal(removal(x, visible), first) and removal.sparse_engine.prepared._kept == kept
    for change in (
        lambda: net.conv.weight.mul_(2),
        lambda: setattr(net.conv.weight, "data", torch.randn(12, 12, 3, 3)),
        lambda: setattr(net, "conv", nn.Conv2d(12, 12, 3, padding=1)),
        lambda: net.load_state_dict(Net(held).state_dict()),
    ):
        change()
        again = removal(x, visible)
        assert torch.allclose(again, LayerMasking(net, engine="dense")(x, visible), atol=1e-4)
        assert not torch.allclose(again, first)
        first = again


def test_scales_prepared_once_follow_the_model() -> None:
    net, x = Net(lambda net, x: net.scale.reshape(1, -1, 1, 1) * net.conv(x)).eval(), images(1)
    visible, removal = masks(x, MASKS, 1), LayerMasking(net, engine="sparse")
    first, kept = removal(x, visible), dict(removal.sparse_engine.prepared._kept)
    assert torch.equal(removal(x, visible), first) and removal.sparse_engine.prepared._kept == kept
    net.scale.mul_(2)
    assert torch.allclose(removal(x, visible), 2 * first, atol=1e-5)


def test_prepared_weights_go_with_the_operator() -> None:
    net, x = Net(doubled).eval(), images(1)
    removal = LayerMasking(net, engine="sparse")
    removal(x, masks(x, MASKS, 1))
    assert removal.sparse_engine.prepared._kept
    assert not copy.deepcopy(removal).sparse_engine.prepared._kept
    kept = [weakref.ref(entry) for entry in removal.sparse_engine.prepared._kept.values()]
    del removal
    gc.collect()
    assert not any(ref() for ref in kept)


# --- choices -------------------------------------------------------------------------------------------


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that the sparse engine took."""
    names: list[str] = []
    call = SparseEngine.__call__

    def counted(self, run, function, args, kwargs):
        out = call(self, run, function, args, kwargs)
        if out is not NotImplemented:
            names.append(function.__name__)
        return out

    monkeypatch.setattr(SparseEngine, "__call__", counted)
    return names


def test_an_ordinary_network_is_sparse_throughout(taken: list[str]) -> None:
    from torchvision.models import resnet18

    x = torch.randn(2, 3, 64, 64)
    LayerMasking(resnet18().eval(), engine="sparse")(x, masks(x, ["patches"], 0))
    assert [taken.count(name) for name in ("conv2d", "batch_norm", "max_pool2d")] == [20, 20, 1]
    assert taken[-1] == "adaptive_avg_pool2d"


@pytest.mark.parametrize(
    "options", [{"fill": "zero"}, {"join": "union"}, {"compat": "paper"}, {"fill": "renormalize"}], ids=str
)
def test_settings_of_the_dense_engine_alone(options: dict, taken: list[str]) -> None:
    net, x = Net(held).eval(), images(1)
    LayerMasking(net, engine="auto", **options)(x, masks(x, MASKS, 1))
    assert not taken
    with pytest.raises(ValueError, match="engine"):
        LayerMasking(net, engine="sparse", **options)


@pytest.mark.parametrize(
    "options", [{"growth": g} for g in ("half", "center", "keep", "all")] + [{"settings": Settings.steady()}]
)
def test_other_growths(options: dict, taken: list[str]) -> None:
    net, x = (
        nn.Sequential(Net(held), nn.MaxPool2d(3, 2, 1), nn.Conv2d(12, 4, 3, 2, 1)).double().eval(),
        images(1).double(),
    )
    visible = masks(x, MASKS, 1)
    sparse, dense = (LayerMasking(net, engine=e, **options)(x, visible) for e in ("sparse", "dense"))
    assert torch.allclose(sparse, dense) and taken


def test_own_rules_are_obeyed(taken: list[str]) -> None:
    net, x = Net(held).eval(), images(1)
    rules = {F.batch_norm: lambda input, *args, **kwargs: Masked(input.value * 0 + 7, input.visible)}
    visible = masks(x, MASKS, 1)
    sparse, dense = (LayerMasking(net, engine=e, rules=rules)(x, visible) for e in ("sparse", "dense"))
    assert torch.allclose(sparse, dense, atol=1e-5) and "batch_norm" not in taken


@torch.enable_grad()
def test_what_is_differentiated_is_dense(taken: list[str]) -> None:
    net, x = Net(held).eval(), images(1)
    LayerMasking(net, engine="sparse")(x, masks(x, MASKS, 1)).sum().backward()
    assert not taken and net.conv is not None and net.stem.weight.grad is not None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own
def test_forward_derivatives_are_dense(taken: list[str]) -> None:
    """`torch.no_grad` leaves them on."""
    net, x = Net(held).double().eval(), images(1).double()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        out = LayerMasking(net, engine="sparse")(dual, masks(x, MASKS, 1))
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert not taken and tangent is not None and tangent.any()


def test_autocast_is_dense(taken: list[str]) -> None:
    net, x = Net(held).eval(), images(1)
    with torch.autocast("cpu", torch.bfloat16):
        LayerMasking(net, engine="sparse")(x, masks(x, MASKS, 1))
    assert not taken


def test_what_is_compiled_or_exported_is_dense(taken: list[str]) -> None:
    net, x = Net(held).eval(), images(1)
    visible, removal = masks(x, MASKS, 1), LayerMasking(net, engine="sparse")
    compiled = torch.compile(removal, fullgraph=True, backend="eager")
    exported = torch.export.export(removal, (x, visible), strict=False).module()
    answers = [way(x, visible) for way in (compiled, exported)]
    assert not taken
    assert all(torch.allclose(answer, removal(x, visible), atol=1e-5) for answer in answers) and taken


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    net, x = Net(held).eval().to(dtype), images(1).to(dtype)
    sparse, dense = engines(net, x, masks(x, MASKS, 1))
    assert sparse.dtype is dtype and torch.allclose(sparse, dense, atol=0.1, rtol=0.05)
    exact = LayerMasking(net.double(), engine="dense")(x.double(), masks(x, MASKS, 1))
    assert (sparse - exact).abs().max() < (dense - exact).abs().max()  # rows are float32


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, taken: list[str]) -> None:
    """Automatic is then dense; sparse means torch operators."""
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(plans, "library", lambda: None)
    net, x = Net(held).eval(), images(1)
    visible = masks(x, MASKS, 1)
    LayerMasking(net)(x, visible)
    assert not taken
    sparse, dense = engines(net, x, visible)
    assert taken and torch.allclose(sparse, dense, atol=1e-5)


def test_unknown_engine() -> None:
    with pytest.raises(ValueError, match="engine is 'fast': choose auto, dense or sparse"):
        layer_masking.LayerMasking(nn.Identity(), engine="fast")


LATE = {
    "product": r"\(in torch.nn.functional.conv2d to a map of shape \(2, 16, 10, 9\), in module 'stem'\)",
    "affine": r"\(in torch.nn.functional.batch_norm to a map of shape \(2, 16, 5, 4\), in module 'norm'\)",
    "maximum": r"\(in torch.nn.functional.max_pool2d to a map of shape \(2, 16, 5, 4\)\)",
}


@pytest.mark.parametrize("kernel", LATE)
def test_an_error_names_the_operation_that_was_put_off(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> Tensor:
        raise MemoryError("too little", "of it")

    stem = nn.Conv2d(3, 16, 3, bias=False)
    net = nn.Sequential(stem, nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3))
    named = nn.Sequential()
    for name, layer in zip(("stem", "pool", "norm", "head"), net, strict=True):
        named.add_module(name, layer)
    monkeypatch.setattr(kernels, kernel, fails)
    x, visible = torch.randn(2, 3, 12, 11), torch.rand(2, 1, 12, 11) < 0.7
    with pytest.raises(MemoryError, match=LATE[kernel]) as found:
        layer_masking.LayerMasking(named.eval().requires_grad_(False), engine="sparse")(x, visible)
    assert str(found.value.args[0]).count("to a map of shape") == 1 and found.value.args[1] == "of it"
