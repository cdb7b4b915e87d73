"""Law 6: filling and convolutions agree with the paper's formulas, one window at a time (`twins.py`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import twins
from pairs import SIZES, agrees, blotches, draw, pair, per_image, windows_of
from torch import Tensor

from layermask import Masked
from layermask.core.masked import zero_hidden
from layermask.padding import devices, neighbor, reference

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    return FILLS[how](x, rings)


FILLS = {"dense": reference.fill_dense, "edges": reference.fill_edges, "by_kernel": neighbor._fill_by_kernel}
WAYS = ["dense", "edges", *(["by_kernel"] if devices.compiled_fill(torch.device("cpu")) else [])]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_neighbour_padding_of_numbers_out_of_range(dtype: torch.dtype, how: str) -> None:
    """NaN stays NaN, infinity infinity, and large numbers what they are."""
    x, visible = draw(2, 4, *SIZES[2]), blotches(2)
    most = min(torch.finfo(dtype).max, 1e30)  # whose sums stay within float32
    for channel, number in enumerate((torch.nan, torch.inf, -most, most)):
        x[:, channel] = torch.where(
            torch.rand(x[:, channel].shape, generator=torch.Generator().manual_seed(1)) < 0.2, number, 1.0
        )
    x[:, 3] = most
    ours, theirs = (_fill(way, pair(x.to(dtype), visible), (2, 2)).double() for way in (how, "dense"))
    known = [twins.pad_and_know(image, mask, (2, 2), 0.0)[1] for image, mask in per_image(x, visible)]
    reached = torch.from_numpy(np.stack(known))[:, None].expand(x.shape)
    assert torch.allclose(ours[reached], theirs[reached], rtol=2e-2, equal_nan=True)


@pytest.mark.parametrize("how", WAYS)
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


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("n, rings", RINGS)
def test_neighbour_padding_leaves_a_frame_alone(n: int, rings: tuple, how: str) -> None:
    x = F.pad(pair(draw(2, 9, *SIZES[n]), blotches(n)), [1, 2] * n, value=7.0)
    assert x.is_padding is not None
    filled = _fill(how, x, rings)
    shape = filled.shape[2:]
    seen, pads = (m.expand(2, 1, *shape)[:, 0].numpy() for m in (x.visible, x.is_padding))
    for i in range(2):
        theirs, known = twins.pad_and_know(x.value[i].numpy(), seen[i], rings, pads=pads[i])
        assert np.abs(np.where(known, filled[i].numpy() - theirs, 0)).max() <= 1e-12


@pytest.mark.parametrize("how", WAYS)
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


@pytest.mark.parametrize(
    "growth, channels", [("any", 4), ("half", 4), ("center", 4), ("keep", 4), ("any", 12)]
)
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


@pytest.mark.parametrize("outs, groups", [(4, 1), (4, 2), (8, 4), (12, 2)])
def test_convolution_of_channels_with_masks_of_their_own(outs: int, groups: int) -> None:
    """Each channel is filled by itself; an output shows what any channel of its group shows."""
    x, visible = draw(1, 4, 6, 7), torch.rand(1, 4, 6, 7, generator=torch.Generator().manual_seed(5)) < 0.1
    weight, bias = draw(outs, 4 // groups, 3, 3, seed=1), draw(outs, seed=2)
    ours = F.conv2d(pair(x, visible), weight, bias, padding=1, groups=groups)
    seen = visible[0].numpy()
    filled = np.stack([twins.pad_k(x[0, c : c + 1].numpy(), seen[c], (2, 2))[0] for c in range(4)])
    windows = windows_of((3, 3), (1, 1), (1, 1), (1, 1))
    value, _ = twins.slide(filled, seen[0], windows, twins.convolve(weight.numpy(), bias.numpy(), groups))
    shown = np.stack([twins.slide(filled, m, windows, lambda window, place: np.zeros(1))[1] for m in seen])
    shown = shown.reshape(groups, -1, 6, 7).any(1).repeat(outs // groups, axis=0)
    agrees(ours, [(value, shown)])


@pytest.mark.parametrize("constant", [0.0, -3.0])
@pytest.mark.parametrize("growth", ["any", "half", "center", "keep"])
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
        is_padding = F.pad(torch.zeros(6, 7, dtype=torch.bool), pads, value=True).numpy()
        theirs.append(
            twins.slide(
                twins.pad_k(a, m, windows.rings, pads=is_padding), m, windows, function, growth, is_padding
            )
        )
    agrees(
        F.conv2d(F.pad(pair(x, visible, growth=growth), pads, value=constant), weight, bias, stride), theirs
    )


@pytest.mark.parametrize("padding", [(1, 1), (2, 0), (0, 3)])
@pytest.mark.parametrize("growth", ["any", "half", "center", "keep"])
def test_padding_inside_and_before_a_convolution_are_one(padding: tuple, growth: str) -> None:
    x, visible, weight = draw(2, 3, 6, 7), blotches(2), draw(2, 3, 3, 3, seed=1)
    inside = F.conv2d(pair(x, visible, growth=growth), weight, padding=padding)
    before = F.conv2d(
        F.pad(pair(x, visible, growth=growth), (padding[1], padding[1], padding[0], padding[0])), weight
    )
    assert torch.equal(inside.visible, before.visible)
    assert torch.equal(zero_hidden(inside), zero_hidden(before))


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
    assert torch.allclose(zero_hidden(ours), zero_hidden(theirs), atol=1e-12)
    again = shifted(pair(torch.where(visible, x, 5), visible))
    assert torch.equal(zero_hidden(ours), zero_hidden(again))
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
    assert torch.equal(zero_hidden(ours), zero_hidden(theirs))


TRANSPOSEDS = [  # n, kernel, stride, padding, output_padding, dilation, groups
    (1, (3,), (2,), (1,), (1,), (1,), 1),
    (1, (2,), (3,), (0,), (0,), (2,), 2),
    (2, (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1),
    (2, (3, 3), (1, 1), (1, 1), (0, 0), (1, 1), 4),
    (2, (4, 4), (2, 2), (1, 1), (1, 1), (1, 1), 1),
    (2, (3, 3), (2, 2), (0, 0), (1, 0), (2, 2), 2),
    (2, (1, 1), (2, 2), (0, 0), (1, 1), (1, 1), 1),
    (2, (1, 3), (1, 1), (0, 1), (0, 0), (1, 1), 1),
    (2, (3, 1), (1, 2), (0, 0), (0, 0), (1, 1), 2),
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
