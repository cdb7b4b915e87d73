"""Law 6: the rules agree with the paper's formulas, computed one window at a time (`twins.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import twins
from torch import Tensor, nn
from twins import Windows

from layermask import LayerMasking, Masked, fill
from layermask.masked import Run, Settings, settled

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
SIZES = {1: (9,), 2: (6, 7), 3: (4, 5, 4)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LP = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blotches(n: int, share: float = 0.35, size: tuple[int, ...] | None = None, seed: int = 0) -> Tensor:
    """Two masks of n dims: a random one, and one with a corner visible."""
    size = size or SIZES[n]
    masks = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed)) < share
    masks[1] = False
    masks[1, 0][tuple(slice(0, s // 2) for s in size)] = True
    return masks


def pair(x: Tensor, visible: Tensor, **settings: object) -> Masked:
    """A pair with NaN wherever it is hidden: whatever a rule does, it may not read that."""
    masked = Masked(torch.where(visible, x, math.nan), visible)
    masked.run = Run(Settings(**settings))  # type: ignore[arg-type]
    return masked


def agrees(ours: Masked, theirs: list[tuple[np.ndarray, np.ndarray]], tolerance: float = 1e-12) -> None:
    """Assert that values and masks are as the twins of the images say."""
    for image, (value, visible) in enumerate(theirs):
        shown = ours.visible.expand(ours.value.shape)[image].numpy()
        assert (shown == visible).all(), f"image {image}: mask"
        wrong = np.abs(np.where(shown, ours.value[image].numpy() - value, 0)).max()
        assert wrong <= tolerance, f"image {image}: values differ by {wrong:.1e}"


def per_image(x: Tensor, visible: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (a.numpy(), m[0].numpy()) for a, m in zip(x, visible.expand(len(x), *visible.shape[1:]), strict=True)
    ]


def windows_of(
    kernel: tuple, stride: tuple, padding: tuple | str, dilation: tuple, ceil: bool = False
) -> Windows:
    if padding == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return Windows(
            kernel, stride, tuple(t // 2 for t in total), tuple(t - t // 2 for t in total), dilation
        )
    sides = (0,) * len(kernel) if padding == "valid" else padding
    return Windows(kernel, stride, sides, sides, dilation, ceil)


# --- neighbour padding: Algorithm 1 ----------------------------------------------------------------------

RINGS = [
    (1, (1,)),
    (1, (4,)),
    (2, (1, 1)),
    (2, (2, 2)),
    (2, (3, 1)),
    (2, (0, 2)),
    (2, (6, 6)),
    (3, (2, 2, 2)),
    (3, (1, 0, 2)),
]


def _fill(how: str, x: Masked, rings: tuple) -> Tensor:
    return {"dense": fill._fill_dense, "edges": fill._fill_edges}[how](x, rings)


@pytest.mark.parametrize("how", ["dense", "edges"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("compat, eps", [(None, 0.0), ("paper", 1e-8), ("release", 1e-5)])
@pytest.mark.parametrize("n, rings", RINGS)
def test_neighbour_padding(
    n: int, rings: tuple, compat: str | None, eps: float, layout: str, how: str
) -> None:
    x, visible = draw(2, 9, *SIZES[n]), blotches(n)
    if layout == "channels last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    filled = _fill(how, pair(x, visible, compat=compat), rings)
    for ours, (image, mask) in zip(filled, per_image(x, visible), strict=True):
        theirs, known = twins.pad_and_know(image, mask, rings, eps)
        assert np.abs(np.where(known, ours.numpy() - theirs, 0)).max() <= 1e-12


@pytest.mark.parametrize("how", ["dense", "edges"])
@pytest.mark.parametrize("n, rings", RINGS)
def test_neighbour_padding_leaves_a_frame_alone(n: int, rings: tuple, how: str) -> None:
    x = F.pad(pair(draw(2, 9, *SIZES[n]), blotches(n)), [1, 2] * n, value=7.0)
    assert x.frame is not None
    filled = _fill(how, x, rings)
    shape = filled.shape[2:]
    seen, pads = (m.expand(2, 1, *shape)[:, 0].numpy() for m in (x.visible, x.frame))
    for i in range(2):
        theirs, known = twins.pad_and_know(x.value[i].numpy(), seen[i], rings, pads=pads[i])
        assert np.abs(np.where(known, filled[i].numpy() - theirs, 0)).max() <= 1e-12


@pytest.mark.parametrize("how", ["dense", "edges"])
def test_neighbour_padding_writes_into_no_value(how: str) -> None:
    x = pair(draw(2, 9, 6, 7), blotches(2))
    before = x.value.clone()
    _fill(how, x, (2, 2))
    assert torch.equal(x.value.nan_to_num(5), before.nan_to_num(5))


@pytest.mark.parametrize("n, k", [(1, 3), (1, 5), (2, 2), (2, 3), (2, 5), (3, 3)])
def test_k_rings_of_padding_give_what_fewer_give(n: int, k: int) -> None:
    """The paper pads k wide; no window that is kept reads past k - 1."""
    windows = windows_of((k,) * n, (1,) * n, (k // 2,) * n, (1,) * n)
    weight, bias = draw(2, 3, *windows.kernel), draw(2)
    x, visible = draw(2, 3, *SIZES[n]), blotches(n)
    function = twins.convolve(weight.numpy(), bias.numpy(), 1)
    theirs = [
        twins.slide(twins.pad_k(a, m, (k,) * n), m, windows, function) for a, m in per_image(x, visible)
    ]
    agrees(CONV[n](pair(x, visible), weight, bias, padding=k // 2), theirs)


# --- convolutions ------------------------------------------------------------------------------------------

CONVS = [  # n, kernel, stride, padding, dilation, groups
    (1, (3,), (1,), (1,), (1,), 1),
    (1, (4,), (3,), "valid", (2,), 2),
    (1, (4,), (1,), "same", (1,), 1),
    (1, (9,), (1,), (6,), (1,), 1),
    (2, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (2, (1, 1), (2, 2), (0, 0), (1, 1), 2),
    (2, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (2, (3, 3), (2, 2), (1, 1), (1, 1), 4),
    (2, (2, 2), (2, 2), (0, 0), (1, 1), 1),
    (2, (4, 4), (4, 4), (0, 0), (1, 1), 1),
    (2, (3, 1), (1, 1), (1, 0), (1, 1), 1),
    (2, (1, 5), (1, 2), (0, 2), (1, 1), 4),
    (2, (3, 5), (2, 1), (0, 3), (1, 1), 2),
    (2, (3, 3), (1, 1), "same", (2, 2), 1),
    (2, (2, 4), (1, 1), "same", (1, 1), 1),
    (2, (3, 2), (1, 2), (2, 1), (2, 3), 1),
    (2, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    (2, (9, 9), (1, 1), (4, 4), (1, 1), 4),
    (3, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    (3, (2, 3, 1), (2, 1, 1), (0, 1, 0), (1, 1, 1), 2),
    (3, (2, 2, 2), (1, 2, 1), (1, 1, 1), (2, 1, 1), 4),
]


def _conv(n: int, kernel: tuple, groups: int, channels: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight = draw(2, channels, *SIZES[n]), draw(channels, channels // groups, *kernel, seed=1)
    return x, blotches(n), weight, draw(channels, seed=2)


@pytest.mark.parametrize("growth, channels", [("any", 4), ("half", 4), ("center", 4), ("any", 12)])
@pytest.mark.parametrize("n, kernel, stride, padding, dilation, groups", CONVS)
def test_convolution(
    n: int,
    kernel: tuple,
    stride: tuple,
    padding: tuple | str,
    dilation: tuple,
    groups: int,
    growth: str,
    channels: int,
) -> None:
    """Few channels and many are filled in different ways."""
    x, visible, weight, bias = _conv(n, kernel, groups, channels)
    windows, function = (
        windows_of(kernel, stride, padding, dilation),
        twins.convolve(weight.numpy(), bias.numpy(), groups),
    )
    theirs = [
        twins.slide(twins.pad_k(a, m, windows.rings), m, windows, function, growth)
        for a, m in per_image(x, visible)
    ]
    agrees(CONV[n](pair(x, visible, growth=growth), weight, bias, stride, padding, dilation, groups), theirs)


@pytest.mark.parametrize("n, kernel, stride, padding, dilation, groups", CONVS)
def test_convolution_with_zero_fill(
    n: int, kernel: tuple, stride: tuple, padding: tuple | str, dilation: tuple, groups: int
) -> None:
    x, visible, weight, bias = _conv(n, kernel, groups)
    windows, function = (
        windows_of(kernel, stride, padding, dilation),
        twins.convolve(weight.numpy(), bias.numpy(), groups),
    )
    theirs = [twins.slide(a * m, m, windows, function) for a, m in per_image(x, visible)]
    agrees(CONV[n](pair(x, visible, fill="zero"), weight, bias, stride, padding, dilation, groups), theirs)


@pytest.mark.parametrize("compat", [None, "release"])
@pytest.mark.parametrize("n, kernel, stride, padding, dilation, groups", CONVS)
def test_partial_convolution(
    n: int,
    kernel: tuple,
    stride: tuple,
    padding: tuple | str,
    dilation: tuple,
    groups: int,
    compat: str | None,
) -> None:
    x, visible, weight, bias = _conv(n, kernel, groups)
    windows = windows_of(kernel, stride, padding, dilation)
    theirs = []
    for a, m in per_image(x, visible):
        function = twins.convolve_partially(weight.numpy(), bias.numpy(), groups, m, compat == "release")
        theirs.append(twins.slide(a * m, m, windows, function))
    ours = CONV[n](
        pair(x, visible, fill="renormalize", compat=compat), weight, bias, stride, padding, dilation, groups
    )
    agrees(ours, theirs)


@pytest.mark.parametrize("constant", [0.0, -3.0])
@pytest.mark.parametrize("growth", ["any", "half", "center"])
@pytest.mark.parametrize(
    "pads, kernel, stride",
    [((1, 1, 1, 1), 3, 1), ((0, 1, 0, 1), 3, 2), ((3, 2, 0, 5), 3, 1), ((2, 0, 1, 4), 4, 3)],
)
def test_convolution_of_padded_maps(
    pads: tuple, kernel: int, stride: int, growth: str, constant: float
) -> None:
    """Padded cells are read, but are neither hidden nor visible."""
    x, visible, weight, bias = (
        draw(2, 3, 6, 7),
        blotches(2),
        draw(2, 3, kernel, kernel, seed=1),
        draw(2, seed=2),
    )
    windows, function = (
        windows_of((kernel,) * 2, (stride,) * 2, (0, 0), (1, 1)),
        twins.convolve(weight.numpy(), bias.numpy(), 1),
    )
    theirs = []
    for a, m in zip(
        F.pad(x, pads, value=constant).numpy(), F.pad(visible[:, 0], pads, value=True).numpy(), strict=True
    ):
        frame = F.pad(torch.zeros(6, 7, dtype=torch.bool), pads, value=True).numpy()
        theirs.append(
            twins.slide(twins.pad_k(a, m, windows.rings, pads=frame), m, windows, function, growth, frame)
        )
    agrees(
        F.conv2d(F.pad(pair(x, visible, growth=growth), pads, value=constant), weight, bias, stride), theirs
    )


@pytest.mark.parametrize("padding", [(1, 1), (2, 0), (0, 3)])
@pytest.mark.parametrize("growth", ["any", "half", "center"])
def test_padding_inside_and_before_a_convolution_are_one(padding: tuple, growth: str) -> None:
    x, visible, weight = draw(2, 3, 6, 7), blotches(2), draw(2, 3, 3, 3, seed=1)
    inside = F.conv2d(pair(x, visible, growth=growth), weight, padding=padding)
    before = F.conv2d(
        F.pad(pair(x, visible, growth=growth), (padding[1], padding[1], padding[0], padding[0])), weight
    )
    assert torch.equal(inside.visible, before.visible)
    assert torch.equal(settled(inside), settled(before))


def test_frames_that_differ_from_channel_to_channel() -> None:
    """Slices of a padded map, each shifted its own way: a cell is padding if all it reads is."""
    x, visible = draw(2, 12, 6, 7), torch.rand(2, 12, 6, 7, generator=torch.Generator().manual_seed(3)) < 0.3
    mix, weight = draw(16, 12, 1, 1, seed=1), draw(2, 16, 3, 3, seed=2)
    shifts = [(slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)), (slice(1, -1), slice(2, None))]

    def shifted(x: Masked) -> Masked:
        padded = F.pad(x, (1, 1, 1, 1))
        parts = [padded[:, 4 * i : 4 * i + 4, a, b] for i, (a, b) in enumerate(shifts)]
        return F.conv2d(F.conv2d(torch.cat(parts, 1), mix), weight, padding=1)

    ours = shifted(pair(x, visible))
    theirs = shifted(pair(x.clone().requires_grad_(), visible))  # filled densely
    assert torch.equal(ours.visible, theirs.visible)
    assert torch.allclose(settled(ours), settled(theirs), atol=1e-12)
    again = shifted(pair(torch.where(visible, x, 5), visible))
    assert torch.equal(settled(ours), settled(again))
    everything = shifted(pair(x, torch.ones_like(visible)))
    parts = [F.pad(x, (1, 1, 1, 1))[:, 4 * i : 4 * i + 4, a, b] for i, (a, b) in enumerate(shifts)]
    plain = F.conv2d(F.conv2d(torch.cat(parts, 1), mix), weight, padding=1)
    assert torch.allclose(everything.value, plain, atol=1e-12) and everything.visible.all()


def test_a_frame_ends_where_another_map_has_cells() -> None:
    """Padded cells to which real ones are added are real: they fill neighbours and make windows visible."""
    x, y, visible = draw(2, 3, 6, 7), draw(2, 3, 8, 9, seed=1), blotches(2)
    weight, everything = draw(2, 3, 3, 3, seed=2), torch.ones(2, 1, 8, 9, dtype=torch.bool)
    total = F.pad(pair(x, visible), (1, 1, 1, 1)) + pair(y, everything)
    ours, theirs = (F.conv2d(t, weight) for t in (total, pair(total.value, total.visible)))
    assert torch.equal(ours.visible, theirs.visible)
    assert torch.equal(settled(ours), settled(theirs))


TRANSPOSEDS = [  # n, kernel, stride, padding, output_padding, dilation, groups
    (1, (3,), (2,), (1,), (1,), (1,), 1),
    (1, (2,), (3,), (0,), (0,), (2,), 2),
    (2, (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1),
    (2, (3, 3), (1, 1), (1, 1), (0, 0), (1, 1), 4),
    (2, (4, 4), (2, 2), (1, 1), (1, 1), (1, 1), 1),
    (2, (3, 3), (2, 2), (0, 0), (1, 0), (2, 2), 2),
    (2, (1, 1), (2, 2), (0, 0), (1, 1), (1, 1), 1),
    (3, (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0), (1, 1, 1), 2),
]


@pytest.mark.parametrize("n, kernel, stride, padding, extra, dilation, groups", TRANSPOSEDS)
def test_transposed_convolution(
    n: int, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple, groups: int
) -> None:
    x, visible, weight, bias = (
        draw(2, 4, *SIZES[n]),
        blotches(n),
        draw(4, 2, *kernel, seed=1),
        draw(2 * groups, seed=2),
    )
    arrays, geometry = (weight.numpy(), bias.numpy()), (stride, padding, extra)
    theirs = [twins.spread(a, m, *arrays, *geometry, dilation, groups) for a, m in per_image(x, visible)]
    agrees(TRANSPOSED[n](pair(x, visible), weight, bias, *geometry, groups, dilation), theirs)


# --- pools -------------------------------------------------------------------------------------------------

POOLS = [  # n, kernel, stride, padding, ceil
    (1, (3,), (2,), (1,), False),
    (1, (2,), (3,), (0,), True),
    (2, (2, 2), (2, 2), (0, 0), False),
    (2, (3, 3), (2, 2), (1, 1), False),
    (2, (3, 3), (2, 2), (0, 0), True),
    (2, (3, 3), (1, 1), (1, 1), False),
    (2, (3, 2), (3, 2), (1, 0), True),
    (2, (4, 2), (3, 4), (2, 1), True),
    (3, (2, 2, 2), (2, 2, 2), (0, 0, 0), True),
    (3, (3, 1, 2), (1, 2, 1), (1, 0, 1), False),
]


def _highest(visible: np.ndarray | None) -> Callable:
    """The maximum of a window, over all of its cells or over visible ones."""

    def function(window: list, place: tuple) -> np.ndarray:
        read = [v for _, cell, v in window if cell is not None and (visible is None or visible[cell])]
        return np.max(read, axis=0) if read else np.zeros(4)

    return function


@pytest.mark.parametrize("compat", [None, "paper", "release"])
@pytest.mark.parametrize("n, kernel, stride, padding, ceil", POOLS)
def test_max_pool(
    n: int, kernel: tuple, stride: tuple, padding: tuple, ceil: bool, compat: str | None
) -> None:
    """Over visible cells; in the paper over filled ones, in its released code over zeros at hidden ones."""
    x, visible = draw(2, 4, *SIZES[n]), blotches(n)
    windows, theirs = windows_of(kernel, stride, padding, (1,) * n, ceil), []
    for a, m in per_image(x, visible):
        filled = twins.pad_k(a, m, windows.rings, 1e-8) if compat == "paper" else a * m
        theirs.append(twins.slide(filled, m, windows, _highest(None if compat else m)))
    agrees(MAX[n](pair(x, visible, compat=compat), kernel, stride, padding, 1, ceil), theirs)


@pytest.mark.parametrize("dilation", [2, 3])
def test_max_pool_with_dilation(dilation: int) -> None:
    x, visible = draw(2, 4, 8, 9), blotches(2, size=(8, 9))
    windows = windows_of((2, 2), (2, 1), (1, 1), (dilation,) * 2)
    theirs = [twins.slide(a, m, windows, _highest(m)) for a, m in per_image(x, visible)]
    agrees(F.max_pool2d(pair(x, visible), 2, (2, 1), 1, dilation), theirs)


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 3])
@pytest.mark.parametrize("n, kernel, stride, padding, ceil", POOLS)
def test_average_pool(
    n: int, kernel: tuple, stride: tuple, padding: tuple, ceil: bool, include_pad: bool, divisor: int | None
) -> None:
    x, visible = draw(2, 4, *SIZES[n]), blotches(n)
    windows = windows_of(kernel, stride, padding, (1,) * n, ceil)
    function = twins.average(include_pad, None if n == 1 else divisor, SIZES[n], windows)
    theirs = [
        twins.slide(twins.pad_k(a, m, windows.rings), m, windows, function) for a, m in per_image(x, visible)
    ]
    extra = () if n == 1 else (divisor,)
    agrees(AVG[n](pair(x, visible), kernel, stride, padding, ceil, include_pad, *extra), theirs)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("n, kernel, stride, padding, ceil", [pool for pool in POOLS if not any(pool[3])])
def test_lp_pool(n: int, kernel: tuple, stride: tuple, padding: tuple, ceil: bool, power: float) -> None:
    x, visible = draw(2, 4, *SIZES[n]).abs(), blotches(n)
    windows = windows_of(kernel, stride, padding, (1,) * n, ceil)

    def norm(window: list, place: tuple) -> np.ndarray:
        """As torch has it: the mean over the cells in the image, times the number of taps."""
        read = [value**power for _, _, value in window if value is not None]
        return (sum(read) / len(read) * len(window)) ** (1 / power)

    theirs = [
        twins.slide(twins.pad_k(a, m, windows.rings), m, windows, norm) for a, m in per_image(x, visible)
    ]
    sizes = (kernel[0], stride[0]) if n == 1 else (kernel, stride)
    agrees(LP[n](pair(x, visible), power, *sizes, ceil), theirs, 1e-10)


ADAPTIVE = [(1, (4,)), (2, (1, 1)), (2, (3, 2)), (2, (7, 7)), (2, (None, 1)), (3, (2, 3, 1))]


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("n, size", ADAPTIVE)
def test_adaptive_pool(n: int, size: tuple, kind: str) -> None:
    """Per bin, over what is visible; a bin that has nothing is 0 and hidden."""
    x, visible = draw(2, 4, *SIZES[n]), blotches(n)
    ours = getattr(F, f"adaptive_{kind}_pool{n}d")(pair(x, visible), size)
    wanted = [full if s is None else s for s, full in zip(size, SIZES[n], strict=True)]
    theirs = []
    for a, m in per_image(x, visible):
        value, shown = np.zeros((4, *wanted)), np.zeros(wanted, dtype=bool)
        for place in twins.cells(wanted):
            axes = zip(place, wanted, SIZES[n], strict=True)
            part = tuple(slice(p * full // s, -(-(p + 1) * full // s)) for p, s, full in axes)
            inside, shown[place] = a[(slice(None), *part)][:, m[part]], m[part].any()
            value[(slice(None), *place)] = (
                (inside.mean(1) if kind == "avg" else inside.max(1)) if shown[place] else 0
            )
        theirs.append((value, shown))
    agrees(ours, theirs)
    assert (ours.value[~ours.visible.expand(ours.value.shape)] == 0).all()


GLOBAL: dict[str, Callable] = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "mean": lambda x: x.mean((2, 3)),
    "mean of a flat map": lambda x: x.flatten(2).mean(-1),
    "mean of means": lambda x: x.permute(0, 2, 3, 1).mean(dim=[1, 2]),
    "one window": lambda x: F.avg_pool2d(x, x.shape[2:]).flatten(1),
    "sum": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "sum of sums": lambda x: x.sum((-1, -2), keepdim=True).div(x.size(2) * x.size(3)).squeeze(-1).squeeze(-1),
}


@pytest.mark.parametrize("way", GLOBAL)
def test_global_average_pool(way: str) -> None:
    """h_m(x, m) = h(x * m) / h(m), however the model spells it; nothing visible gives 0."""
    x, visible = draw(3, 4, 6, 7), torch.cat([blotches(2), torch.zeros(1, 1, 6, 7, dtype=torch.bool)])
    ours = GLOBAL[way](pair(x, visible))
    for image, (a, m) in enumerate(per_image(x, visible)):
        assert np.abs(ours.value[image].numpy() - twins.masked_mean(a, m)).max() <= 1e-12
    assert ours.visible.flatten().tolist() == [True, True, False]


@pytest.mark.parametrize("way", ["adaptive", "mean", "one window"])
def test_global_average_pool_of_the_released_code(way: str) -> None:
    """It adds 1e-8 to the visible share."""
    x, visible = draw(1, 4, 6, 7), torch.zeros(1, 1, 6, 7, dtype=torch.bool)
    visible[..., 2, 3] = True
    ours = GLOBAL[way](pair(x, visible, compat="release"))
    assert torch.allclose(ours.value, x[:, :, 2, 3] / 42 / (1 / 42 + 1e-8), atol=1e-13, rtol=0)


# --- joins -------------------------------------------------------------------------------------------------

JOINS = {
    "intersection": lambda masks: np.logical_and.reduce(masks),
    "union": lambda masks: np.logical_or.reduce(masks),
    "majority": lambda masks: 2 * np.sum(masks, axis=0) > len(masks),
}


@pytest.mark.parametrize("join", JOINS)
def test_residual_join(join: str) -> None:
    """(x1 + x2) under m1 * m2 (the paper); under another join a hidden operand counts as 0."""
    xs, masks = (
        [draw(2, 3, 4, 5, seed=i) for i in range(2)],
        [blotches(2, 0.5, (4, 5), seed=i) for i in range(2)],
    )
    a, b = (pair(x, m, join=join) for x, m in zip(xs, masks, strict=True))
    b.run = a.run
    ours = a + b
    zeroed = [torch.where(m, x, 0).numpy() for x, m in zip(xs, masks, strict=True)]
    shown = [JOINS[join]([m[i, 0].numpy() for m in masks]) for i in range(2)]
    agrees(ours, [(zeroed[0][i] + zeroed[1][i], shown[i]) for i in range(2)])


@pytest.mark.parametrize(
    "kernel, dilation",
    [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (1, 1)), ((4, 4), (2, 2)), ((1, 2), (3, 2))],
)
def test_residual_around_a_window(kernel: tuple, dilation: tuple) -> None:
    """A run remembers which masks grew out of which: an even, dilated kernel does not hold its centre."""
    x, visible, weight = draw(2, 3, 6, 7), blotches(2), draw(3, 3, *kernel, seed=1)
    windows = windows_of(kernel, (1, 1), "same", dilation)
    masked = pair(x, visible)
    ours = masked + F.conv2d(masked, weight, padding="same", dilation=dilation)
    for image, (a, m) in enumerate(per_image(x, visible)):
        grown = twins.slide(a, m, windows, lambda window, place: np.zeros(1))[1]
        assert (ours.visible[image, 0].numpy() == (grown & m)).all()


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("number", [2, 3])
def test_concatenation_join(join: str, number: int) -> None:
    xs = [draw(2, 3, 4, 5, seed=i) for i in range(number)]
    masks = [blotches(2, 0.5, (4, 5), seed=i) for i in range(number)]
    parts = [pair(x, m, join=join) for x, m in zip(xs, masks, strict=True)]
    ours = torch.cat(parts, 1)
    shown = [JOINS[join]([m[i, 0].numpy() for m in masks]) for i in range(2)]
    zeroed = [
        torch.cat([torch.where(m, x, 0) for x, m in zip(xs, masks, strict=True)], 1)[i].numpy()
        for i in range(2)
    ]
    agrees(ours, list(zip(zeroed, shown, strict=True)))


# --- normalisation -----------------------------------------------------------------------------------------


def selected(x: Tensor, visible: Tensor, axis: int) -> Tensor:
    """The visible entries of every channel: (C, visible)."""
    full = visible.expand(x.shape).movedim(axis, 0).flatten(1)
    return torch.stack([row[seen] for row, seen in zip(x.movedim(axis, 0).flatten(1), full, strict=True)])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_in_training_is_that_of_the_visible_entries(n: int, momentum: float | None) -> None:
    x, visible = draw(2, 4, *SIZES[n]), blotches(n)
    ours, theirs = (
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[k - 1](4, momentum=momentum).double() for k in (n, 1)
    )
    for norm in (ours, theirs):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(1))
    out, plain = ours(pair(x, visible)), theirs(selected(x, visible, 1).T)
    assert torch.allclose(selected(out.value, visible, 1).T, plain, atol=1e-12, rtol=0)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12, rtol=0), name


NORMS: dict[str, tuple[Callable, Callable]] = {  # name -> (norm of (N, 4, 6, 7), the axes of its statistics)
    "layer, all axes": (lambda x: F.layer_norm(x, (4, 6, 7)), lambda x: x.reshape(2, 1, -1)),
    "layer, two axes": (lambda x: F.layer_norm(x, (6, 7)), lambda x: x.reshape(8, 1, -1)),
    "layer, last axis": (lambda x: F.layer_norm(x, (7,)), lambda x: x.reshape(48, 1, -1)),
    "layer, channels": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2), None),
    "group": (lambda x: F.group_norm(x, 2), lambda x: x.reshape(4, 1, -1)),
    "one group": (lambda x: F.group_norm(x, 1), lambda x: x.reshape(2, 1, -1)),
    "instance": (F.instance_norm, lambda x: x.reshape(8, 1, -1)),
}


@pytest.mark.parametrize("mask", ["spatial", "all axes"])
@pytest.mark.parametrize("name", NORMS)
def test_normalisation_is_that_of_the_visible_entries(name: str, mask: str) -> None:
    norm, rows = NORMS[name]
    rows = rows or (lambda x: x.permute(0, 2, 3, 1).reshape(84, 1, -1))
    x = 3 * draw(2, 4, 6, 7) + 1
    visible = (
        blotches(2)
        if mask == "spatial"
        else torch.rand(2, 4, 6, 7, generator=torch.Generator().manual_seed(3)) < 0.5
    )
    ours = norm(pair(x, visible))
    assert torch.equal(ours.visible.expand(x.shape), visible.expand(x.shape))
    for out, value, seen in zip(rows(ours.value), rows(x), rows(visible.expand(x.shape)), strict=True):
        kept = value[seen]
        if len(kept):
            theirs = (kept - kept.mean()) / (kept.var(unbiased=False) + 1e-5).sqrt()
            assert torch.allclose(out[seen], theirs, atol=1e-11, rtol=0)


# --- interpolation -----------------------------------------------------------------------------------------

RESIZES = [
    ("nearest", {"scale_factor": 2}),
    ("nearest", {"size": (4, 3)}),
    ("nearest-exact", {"size": (9, 5)}),
    ("bilinear", {"scale_factor": 2}),
    ("bilinear", {"size": (3, 3)}),
    ("bilinear", {"size": (12, 14), "align_corners": True}),
    ("bilinear", {"size": (3, 3), "antialias": True}),
    ("area", {"size": (3, 3)}),
    ("bicubic", {"scale_factor": 2}),
    ("bicubic", {"size": (4, 4), "antialias": True}),
]


def weights_of(resize: Callable, size: tuple) -> Tensor:
    """A linear map's matrix (*out, *size): what each output cell reads, one input cell at a time."""
    unit = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)
    return resize(unit)[:, 0].movedim(0, -1).unflatten(-1, size)


@pytest.mark.parametrize("mode, options", RESIZES)
@pytest.mark.parametrize("size", [(6, 6), (6, 7)])
def test_interpolation(mode: str, options: dict, size: tuple) -> None:
    x, visible = draw(2, 3, *size), blotches(2, size=size)
    ours = F.interpolate(pair(x, visible), mode=mode, **options)
    matrix = weights_of(lambda t: F.interpolate(t, mode=mode, **options), size)
    core = (
        matrix
        if mode != "bicubic"
        else weights_of(lambda t: F.interpolate(t, mode="bilinear", **options), size)
    )
    reached = torch.einsum("hwij,nij->nhw", (core.abs() > 1e-6).double(), visible[:, 0].double()) > 0
    assert torch.equal(ours.visible.expand(2, 1, *reached.shape[1:])[:, 0], reached)
    if size == (6, 6):  # equal reach along both axes, however wide
        filled = torch.stack([torch.from_numpy(twins.pad_k(a, m, (9, 9))) for a, m in per_image(x, visible)])
        theirs = torch.einsum("hwij,ncij->nchw", matrix, filled)
        assert torch.where(reached[:, None], ours.value - theirs, 0).abs().max() <= 1e-12


# --- until -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until, masked", [("0", 1), ("2", 3), ("5", 6)])
def test_until_masks_the_first_layers_only(until: str, masked: int) -> None:
    """Table 3: the masked layers' output, 0 where hidden, goes through the others as they are."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
    ]
    model = nn.Sequential(*layers).double()
    x, visible = draw(2, 3, 9, 9), blotches(2, size=(9, 9))
    theirs = model[masked:](LayerMasking(model[:masked])(x, visible))
    assert torch.equal(LayerMasking(model, until=until)(x, visible), theirs)


def test_until_reaches_past_a_residual_branch() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.conv(x)
            out += x
            return out.mean((2, 3))

    block, x, visible = Block().double(), draw(2, 3, 6, 7), blotches(2)
    zeroed = torch.where(visible, x, 0)
    theirs = LayerMasking(block.conv)(x, visible) + zeroed
    assert torch.equal(LayerMasking(block, until="conv")(x, visible), theirs.mean((2, 3)))
