"""Law 6: pools, joins, norms, resizing and `until` agree with slow twins (`twins.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import twins
from pairs import SIZES, agrees, blotches, draw, pair, per_image, windows_of
from torch import Tensor, nn

from layermask import LayerMasking

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LP = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}

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


@pytest.mark.parametrize("growth", ["center", "keep"])
@pytest.mark.parametrize("n, kernel, stride, padding, ceil", [each for each in POOLS if not each[-1]])
def test_max_unpool(n: int, kernel: tuple, stride: tuple, padding: tuple, ceil: bool, growth: str) -> None:
    """Visible maxima go back to their places; what only hidden windows reach is hidden."""
    x, visible = draw(2, 4, *SIZES[n]), blotches(n)
    found, places = MAX[n](pair(x, visible, growth=growth), kernel, stride, padding, return_indices=True)
    doubled = found * 2 - 9
    ours = UNPOOL[n](doubled, places, kernel, stride, padding, x.shape)
    want, seen = torch.zeros_like(x), torch.zeros(2, 4, *SIZES[n], dtype=torch.bool)
    reached = torch.zeros(SIZES[n], dtype=torch.bool)
    cells = torch.cartesian_prod(*[torch.arange(m) for m in found.shape[2:]]).reshape(-1, n).tolist()
    for cell in cells:
        starts = [c * s - p for c, s, p in zip(cell, stride, padding, strict=True)]
        window = tuple(slice(max(a, 0), a + k) for a, k in zip(starts, kernel, strict=True))
        reached[window] = True
        for image in range(2):
            if bool(found.visible[(image, 0, *cell)]):
                seen[(image, slice(None), *window)] = True
                for c in range(4):
                    want[image, c].view(-1)[places[(image, c, *cell)]] = doubled.value[(image, c, *cell)]
    assert torch.equal(ours.visible.expand(x.shape), seen | ~reached)
    assert torch.equal(ours.value, want)
    whole = pair(x, torch.ones_like(visible))
    values, there = MAX[n](whole, kernel, stride, padding, return_indices=True)
    plain = UNPOOL[n](values.value, there, kernel, stride, padding, x.shape)
    found = UNPOOL[n](values, there, kernel, stride, padding, x.shape)
    assert torch.equal(found.value, plain) and found.visible.all()


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
    b.forward_pass = a.forward_pass
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
    visible[1] = False
    visible[1, 0, 3, 3] = True  # alone
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
