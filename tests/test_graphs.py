"""Random graphs of layers (`graphs.py`): every value by the laws and by its slow twin, in both engines."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator

import graphs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graphs import Graph, Step
from torch import Tensor, nn

from layermask import LayerMasking, Masked
from layermask.check.watch import poisoned
from layermask.core.forward_pass import ForwardPass
from layermask.core.outputs import to_plain
from layermask.core.settings import Settings
from layermask.removal.layer_masking import enter

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
SEEDS, CHUNK = int(os.environ.get("LAYERMASK_GRAPHS", 300)), 20
EXACT = 1e-9  # of float64, relative to the largest value


def packs(graph: Graph) -> bool:
    """Whether the settings are those that the sparse engine and the twins know."""
    return graph.settings == Settings(growth=graph.settings.growth, pool=graph.settings.pool)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value, or to 1."""
    if a.shape != b.shape:
        return math.inf
    difference = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(math.inf)
    return float(difference.max() / b.abs().max().clamp_min(1)) if a.numel() else 0.0


def shown(x: Masked, rows: slice = slice(None)) -> Tensor:
    """The visible entries, 0 elsewhere."""
    return torch.where(x.visible, x.value, 0)[rows]


def judged(graph: Graph, seed: int) -> Iterator[str]:
    """What is wrong with a graph, law by law; nothing if all hold."""
    masks = graphs.masks(seed, graph.size)
    images = graphs.weights(seed, 1, graph.channels, *graph.size).expand(4, -1, *[-1] * len(graph.size)) * 9
    noise = torch.where(masks, images, 100 * graphs.weights(seed + 1, 4, graph.channels, *graph.size))
    run = ForwardPass(graph.settings)
    values = graph.trace(enter(images, masks, run))
    yield from _all_visible(graph, values, graph.trace(images))
    yield from _no_leak(graph, values, noise, masks)
    yield from _monotone(values)
    yield from _one_by_one(graph, values, images, masks)
    yield from _engines(graph, to_plain(values[-1]), images, masks)
    if packs(graph) and graph.settings.growth in ("any", "half"):
        yield from _twin(graph, values, images[2].numpy(), masks[2, 0].numpy(), 2)


def _all_visible(graph: Graph, values: list[Masked], plain: list[Tensor]) -> Iterator[str]:
    for i, (x, y) in enumerate(zip(values, plain, strict=True)):
        ours, theirs, seen = (t[:, 3] if graph.is_tokens(i) else t[3] for t in (x.value, y, _mask(x)))
        if not bool(seen.all()):
            yield f"law 1: something is hidden in value {i}"
        if (error := apart(ours, theirs)) > 1e-12:
            yield f"law 1: value {i} is off by {error:.1e}"


def _mask(x: Masked) -> Tensor:
    return x.visible.expand(x.value.shape)


def _no_leak(graph: Graph, values: list[Masked], noise: Tensor, masks: Tensor) -> Iterator[str]:
    noisy, nothing = poisoned(Masked(noise, masks)), Masked(torch.where(masks, noise, math.nan), masks)
    nothing.forward_pass = ForwardPass(graph.settings)
    noisy.forward_pass.settings = graph.settings  # type: ignore[union-attr]  # of `poisoned`
    for name, begin in (("noise", noisy), ("NaN", nothing)):
        for i, (x, y) in enumerate(zip(values, graph.trace(begin), strict=True)):
            if not torch.equal(x.visible, y.visible):
                yield f"law 2: {name} changes the mask of value {i}"
            elif (error := apart(shown(y), shown(x))) > 1e-12:
                yield f"law 2: {name} changes value {i} by {error:.1e}"


def _monotone(values: list[Masked]) -> Iterator[str]:
    for i, x in enumerate(values[:-1]):
        seen = _mask(x)
        if bool((seen[:-1] & ~seen[1:]).any()):
            yield f"law 4: showing more hides entries of value {i}"


def _one_by_one(graph: Graph, values: list[Masked], images: Tensor, masks: Tensor) -> Iterator[str]:
    alone = graph.trace(enter(images[1:2], masks[1:2], ForwardPass(graph.settings)))
    for i, (x, y) in enumerate(zip(values[:-1], alone[:-1], strict=True)):
        if apart(shown(y), shown(x, slice(1, 2))) > EXACT:
            yield f"law 5: value {i} of a batch is another than alone"
    single, batch = to_plain(alone[-1]), to_plain(values[-1])
    if apart(single, batch[:, 1:2] if graph.is_tokens(len(values) - 1) else batch[1:2]) > EXACT:
        yield "law 5: the answer of a batch is another than alone"


def _engines(graph: Graph, answer: Tensor, images: Tensor, masks: Tensor) -> Iterator[str]:
    settings = dataclasses.asdict(graph.settings)
    names = ("dense", "sparse") if packs(graph) else ("dense", "auto")
    removals = {name: LayerMasking(graph, engine=name, **settings) for name in names}
    for name, removal in removals.items():
        if (error := apart(removal(images, masks), answer)) > EXACT:
            yield f"law 9: {name} is off by {error:.1e}"
    dense, sparse = (removal(images.float(), masks) for removal in removals.values())
    if (error := apart(sparse, dense)) > 1e-4:
        yield f"law 9: in float32 the engines are {error:.1e} apart"


def _twin(graph: Graph, values: list[Masked], image: np.ndarray, mask: np.ndarray, at: int) -> Iterator[str]:
    for i, (theirs, x) in enumerate(zip(graph.twin(image, mask), values, strict=False)):
        if x.visible[0].numel() == 1 < x.value[0, 0].numel():  # of one cell: all alike from here on
            return
        seen = _mask(x)[at].numpy()
        is_padding = torch.tensor(False) if x.is_padding is None else x.is_padding.expand(x.value.shape)[at]
        if not (seen == theirs.visible).all() or not (is_padding.numpy() == theirs.is_padding).all():
            yield f"law 6: the mask of value {i} is not the twin's"
            return
        error = apart(
            torch.where(torch.from_numpy(seen), x.value[at], 0),
            torch.from_numpy(np.where(theirs.visible, theirs.value, 0)),
        )
        if error > EXACT:
            yield f"law 6: value {i} is {error:.1e} off the twin's"
        if (
            error > EXACT or x.visible.shape[1] != 1
        ):  # masks that differ by channel, which the twin does not know
            return


def faults(seed: int) -> str:
    """What is wrong with the graph of a seed, and its table; "" if nothing is."""
    graph = graphs.draw(seed)
    with torch.no_grad() if seed % 3 else contextlib.nullcontext():
        found = list(judged(graph, seed))
    return f"graph {seed}: {'; '.join(found)}\n{graph}" if found else ""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_graphs_obey_the_laws_and_their_twins(first: int) -> None:
    found = [faults(seed) for seed in range(first, first + CHUNK)]
    assert not any(found), "\n\n".join(filter(None, found))


# --- faults that were found, shrunk ------------------------------------------------------------------------


def graph(size: tuple[int, ...], *steps: tuple[str, dict], channels: int = 1, head: str = "map") -> Graph:
    """A chain of steps, each by its kind and those of its options that are not the plainest."""
    chain = [
        Step(name, {**PLAINEST.get(name, {}), **options}, (i,)) for i, (name, options) in enumerate(steps)
    ]
    return Graph(channels, size, Settings(), head, chain)


ONE = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "out": 1}
PLAINEST: dict[str, dict] = {
    "conv": {**ONE, "bias": True, "seed": 1},
    "transposed": {**ONE, "extra": (0, 0), "bias": True, "seed": 2},
    "max_pool": {"stride": None, "padding": (0, 0), "dilation": (1, 1), "ceil": False},
    "avg_pool": {"stride": None, "padding": (0, 0), "ceil": False, "count": True, "divisor": None},
    "pad": {"pads": [1, 1, 1, 1], "mode": "constant", "value": 0.0},
    "interpolate": {"to": None, "scale": (2.0, 2.0), "mode": "bilinear", "align": False, "antialias": False},
    "grid_sample": {"mode": "bilinear", "outside": "zeros", "align": False, "zoom": 1.2, "seed": 3},
}
PAD, ROUND = ("pad", {}), {"pads": [2, 2, 2, 2], "mode": "circular", "value": None}
THREE = ("conv", {"kernel": (3, 3)})

FOUND: dict[str, Graph] = {
    "padding, then a transposed point": graph((3, 3), PAD, ("transposed", {})),
    "padding, then a transposed layer": graph(
        (3, 3), PAD, ("transposed", {"kernel": (2, 2), "stride": (2, 2)})
    ),
    "a padded point, then a transposed layer": graph(
        (3, 4), ("conv", {"padding": (1, 1)}), ("transposed", {"kernel": (3, 2), "stride": (2, 1)}), THREE
    ),
    "padding, then linear upsampling": graph((5, 6), PAD, ("interpolate", {}), THREE),
    "padding, then nearest upsampling": graph(
        (5, 6), PAD, ("interpolate", {"mode": "nearest", "align": None}), THREE
    ),
    "padding, then cubic upsampling": graph((5, 6), PAD, ("interpolate", {"mode": "bicubic"}), THREE),
    "padding, then bins": graph(
        (5, 6), PAD, ("interpolate", {"mode": "area", "align": None, "scale": (0.7, 0.5)})
    ),
    "padding, then samples": graph((5, 6), PAD, ("grid_sample", {"to": (5, 4)}), THREE),
    "cubic samples beyond the edge": graph(
        (6, 6), ("grid_sample", {"to": (9, 9), "mode": "bicubic", "zoom": 1.5})
    ),
    "transposed points apart": graph((6, 6), ("transposed", {"stride": (2, 2)}), THREE),
    "transposed windows apart": graph((5, 5), ("transposed", {"kernel": (2, 2), "stride": (3, 3)}), THREE),
    "padding wrapped round": graph(
        (4, 2),
        ("conv", {"kernel": (2, 2), "padding": (1, 1)}),
        ("conv", {"padding": (1, 1), "bias": False}),
        ("pad", ROUND),
        ("conv", {"kernel": (3, 3), "dilation": (2, 2), "bias": False}),
    ),
    "padding, then adaptive bins": graph((5, 6), PAD, PAD, ("adaptive_avg", {"to": (4, 5)}), THREE),
    "padding, then adaptive maxima": graph((5, 6), PAD, PAD, ("adaptive_max", {"to": (4, 5)}), THREE),
    "padding, then shuffled pixels": graph((3, 4), PAD, ("pixel_shuffle", {}), THREE, channels=4),
    "padding, then a gate": graph((5, 6), PAD, ("gate", {"pooled": True}), THREE),
    "padding, then a gate of channels": graph((5, 6), PAD, ("channel_gate", {}), THREE, channels=3),
    "one cell wide": graph((6, 1), ("conv", {"kernel": (3, 3), "padding": (2, 2)}), THREE),
    "one cell high, padded": graph((1, 5), ("pad", {"pads": [1, 2, 2, 1]}), THREE),
    "one cell wide, wrapped round": graph((5, 1), ("pad", {**ROUND, "pads": [1, 1, 1, 1]}), THREE),
    "points of one channel": graph((6, 6), THREE, ("conv", {}), ("conv", {"dilation": (1, 2)})),
    "a point of one channel": graph((6, 6), ("conv", {"dilation": (1, 2)})),
    "one cell": graph((1, 1), PAD, ("transposed", {"kernel": (2, 3)}), THREE),
    "made one cell wide": graph(
        (8, 8), ("adaptive_avg", {"to": (6, 1)}), ("conv", {"kernel": (3, 3), "padding": (2, 2)}), THREE
    ),
    "a window over all of the map": graph(
        (6, 6), THREE, ("conv", {"kernel": (4, 4)}), ("batch_norm", {"seed": 5})
    ),
    "a transposed layer that leaves one cell": graph(
        (6, 6), THREE, ("transposed", {"kernel": (2, 2), "padding": (2, 2)}), ("batch_norm", {"seed": 5})
    ),
    "a norm over all of the map": graph(
        (6, 6), THREE, ("lp_pool", {"kernel": (4, 4), "stride": None, "p": 2.0, "ceil": False})
    ),
    "columns of single cells": graph(
        (2, 2),
        ("pixel_unshuffle", {}),
        ("unfold_and_fold", {**ONE, "size": (1, 1), "kernel": (2, 3), "padding": (1, 1), "stride": (3, 3)}),
    ),
    "a mean of tokens": graph((4, 4), ("conv", {}), head="mean of tokens"),
    "a cell of the map": graph((6, 6), ("conv", {"kernel": (3, 3), "padding": (1, 1)}), head="cell"),
    "tokens before images": graph((4, 4), ("conv", {}), head="tokens"),
}


@pytest.mark.parametrize("name", FOUND)
@torch.no_grad()
def test_what_was_wrong_is_right(name: str) -> None:
    assert not [fault for seed in range(8) for fault in judged(FOUND[name], seed)]


CELLS = {
    "select": lambda x: x[:, :, 0, 0],
    "slices": lambda x: x[:, :, :1, :1],
    "narrow": lambda x: x.narrow(2, 0, 1).narrow(3, 0, 1).flatten(1),
    "token": lambda x: x.flatten(2).transpose(1, 2)[:, 0],
    "unbound": lambda x: x.unbind(2)[0].unbind(2)[0],
    "index_select": lambda x: x.flatten(2).index_select(2, torch.tensor([0]))[..., 0],
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3)[..., 0],
    "split": lambda x: x.split([1, 5], 2)[0].split([1, 5], 3)[0],
    "cropped": lambda x: F.pad(x, (0, -5, 0, -5)),
    "transposed": lambda x: F.conv_transpose2d(x, graphs.weights(1, 4, 4, 1, 1, dtype=x.dtype), padding=2)[
        ..., :1, :1
    ],
}
BEHIND = {
    "itself": lambda x: x,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: F.linear(
        x.flatten(1), graphs.weights(2, 3, 4, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
    ),
    "twice": lambda x: torch.cat([x, x + 1], 1),
}


class CellOf(nn.Module):
    """One cell of a convolution's output, and what is computed from it."""

    def __init__(self, cell: Callable, behind: Callable) -> None:
        super().__init__()
        self.conv, self.cell, self.behind = nn.Conv2d(1, 4, 3, padding=1), cell, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.cell(self.conv(x)))


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_a_hidden_cell_as_the_answer_is_0(cell: str, behind: str) -> None:
    """Of a batch and alone, by both engines; the cell of an image that shows it is the plain model's."""
    net = CellOf(CELLS[cell], BEHIND[behind]).double()
    images, visible = graphs.weights(3, 3, 1, 6, 6), torch.zeros(3, 1, 6, 6, dtype=torch.bool)
    visible[1, :, 4:, 4:], visible[2] = True, True
    for engine in ("dense", "sparse"):
        removal = LayerMasking(net, engine=engine)
        answers = removal(images, visible)
        assert not answers[:2].any(), engine
        assert torch.allclose(answers[2:], net(images)[2:]), engine
        assert torch.equal(answers[1:2], removal(images[1:2], visible[1:2])), engine


@torch.no_grad()
def test_a_cell_is_still_a_view_of_its_map() -> None:
    visible = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    x = Masked(torch.ones(1, 3, 2, 2), visible) * 1
    x[:, :, 0, 0].mul_(5)
    assert (x.value[..., 0, 0] == 5).all() and (x.value[..., 1] == 1).all()


@pytest.mark.parametrize("how", ["paired", "removal"])
def test_a_mask_on_another_device_is_refused(how: str) -> None:
    net = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(6)])
    image, visible = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool, device="meta")
    with pytest.raises(ValueError, match="visible is on meta"):
        LayerMasking(net)(image, visible) if how == "removal" else net(Masked(image, visible))


def test_columns_lie_side_by_side() -> None:
    """Each column keeps its own mask, though neither varies along the axis of columns."""
    visible = torch.tensor([[True, False], [False, True]]).expand(1, 1, 2, 2)
    x = Masked(torch.ones(1, 3, 2, 2), visible)
    out = torch.cat([x[..., :1], x[..., 1:]], 3)
    assert torch.equal(out.visible, visible)


# --- padding, which is neither hidden nor visible ----------------------------------------------------------

KEEPING: dict[str, Callable] = {
    "mean": lambda x: x.mean(1, keepdim=True),
    "maximum": lambda x: x.amax(1, keepdim=True),
    "deviation": lambda x: x.std(1, keepdim=True),
    "softmax": lambda x: x.softmax(1),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True),
    "gate of bins": lambda x: F.adaptive_avg_pool2d(x, 1) + x,
    "shuffled": lambda x: F.pixel_shuffle(x, 2),
    "unfolded": lambda x: F.unfold(x, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=1.0),
    "added": lambda x: x + x.relu(),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "one of them": lambda x: x.gather(1, torch.zeros(2, 1, 6, 6, dtype=torch.long)),
}


@pytest.mark.parametrize("name", KEEPING)
def test_padding_stays_padding(name: str) -> None:
    """As many cells are padding behind an operation on each position as before."""
    visible = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    visible[0, :, :2] = False
    out = KEEPING[name](F.pad(Masked(torch.rand(2, 4, 4, 4), visible), (1, 1, 1, 1)))
    assert out.is_padding is not None
    assert out.is_padding.float().mean() == 20 / 36
    assert bool(out.visible[out.is_padding.expand(out.visible.shape)].all())


def hidden_cell() -> Masked:
    """A map of one cell, which is hidden."""
    return Masked(torch.full((1, 1, 1, 1), 7.0), torch.zeros(1, 1, 1, 1, dtype=torch.bool))


@pytest.mark.parametrize(
    "around",
    [
        lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: F.conv2d(x, torch.ones(1, 1, 1, 1), padding=1),
        lambda x: F.conv_transpose2d(F.pad(x, (1, 1, 1, 1)), torch.ones(1, 1, 1, 1)),
    ],
)
def test_around_one_hidden_cell_lies_padding(around: Callable) -> None:
    out = around(hidden_cell())
    ring = torch.ones(3, 3, dtype=torch.bool)
    ring[1, 1] = False
    assert torch.equal(out.visible[0, 0], ring) and torch.equal(out.is_padding[0, 0], ring)
    assert not out.value[0, 0][ring].any()


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
def test_padding_makes_no_bin_visible(pool: Callable) -> None:
    """Bins of padding and of hidden cells are hidden, and one bin of them all is 0."""
    x = F.pad(hidden_cell(), (1, 1, 1, 1), value=5.0)
    bins, whole = pool(x, 3), pool(x, 1)
    assert bins.visible.sum() == bins.is_padding.sum() == 8
    assert not whole.visible.any() and not whole.value.any()


def test_a_sample_outside_reads_no_hidden_pixel() -> None:
    """At one pixel beyond the edge the pixel at the edge is read, with weight 0."""
    x = Masked(torch.full((1, 1, 3, 3), math.nan), torch.zeros(1, 1, 3, 3, dtype=torch.bool))
    out = F.grid_sample(x, torch.full((1, 1, 1, 2), -2.0), align_corners=True)
    assert out.visible.all() and out.is_padding.all() and not out.value.any()


def test_columns_of_padding_show_no_hidden_cell() -> None:
    """The first of three cells is covered by padding, the last by a hidden column, the middle one by both."""
    columns = F.pad(Masked(torch.ones(1, 2, 1), torch.zeros(1, 1, 1, dtype=torch.bool)), (1, 0))
    out = F.fold(columns, (1, 3), (1, 2))
    assert out.visible.flatten().tolist() == out.is_padding.flatten().tolist() == [True, False, False]
