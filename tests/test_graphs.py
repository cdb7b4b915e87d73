"""Random graphs of layers (`graphs.py`): every value by the laws and by its slow twin, in both engines."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator

import graphs
import numpy as np
import pytest
import torch
from graphs import Graph
from torch import Tensor

from layermask import LayerMasking, Masked
from layermask.check.watch import poisoning
from layermask.masked import Run, Settings
from layermask.removal.layers import entered, left

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
SEEDS, CHUNK = int(os.environ.get("LAYERMASK_GRAPHS", 400)), 20
EXACT = 1e-9  # of float64, relative to the largest value


def packs(graph: Graph) -> bool:
    """Whether the settings are those that the packed engine and the twins know."""
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
    run = Run(graph.settings)
    values = graph.trace(entered(images, masks, run))
    yield from _all_visible(graph, values, graph.trace(images))
    yield from _no_leak(graph, values, noise, masks)
    yield from _monotone(values)
    yield from _one_by_one(graph, values, images, masks)
    yield from _engines(graph, left(values[-1]), images, masks)
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
    run, nothing = Run(graph.settings), torch.where(masks, noise, math.nan)
    with poisoning():
        noisy = graph.trace(_pair(noise, masks, run))
    for name, others in (("noise", noisy), ("NaN", graph.trace(_pair(nothing, masks, Run(graph.settings))))):
        for i, (x, y) in enumerate(zip(values, others, strict=True)):
            if not torch.equal(x.visible, y.visible):
                yield f"law 2: {name} changes the mask of value {i}"
            elif (error := apart(shown(y), shown(x))) > 1e-12:
                yield f"law 2: {name} changes value {i} by {error:.1e}"


def _pair(value: Tensor, visible: Tensor, run: Run) -> Masked:
    x = Masked(value, visible)
    x.run = run
    return x


def _monotone(values: list[Masked]) -> Iterator[str]:
    for i, x in enumerate(values[:-1]):
        seen = _mask(x)
        if bool((seen[:-1] & ~seen[1:]).any()):
            yield f"law 4: showing more hides entries of value {i}"


def _one_by_one(graph: Graph, values: list[Masked], images: Tensor, masks: Tensor) -> Iterator[str]:
    alone = graph.trace(entered(images[1:2], masks[1:2], Run(graph.settings)))
    for i, (x, y) in enumerate(zip(values[:-1], alone[:-1], strict=True)):
        if apart(shown(y), shown(x, slice(1, 2))) > EXACT:
            yield f"law 5: value {i} of a batch is another than alone"
    single, batch = left(alone[-1]), left(values[-1])
    if apart(single, batch[:, 1:2] if graph.is_tokens(len(values) - 1) else batch[1:2]) > EXACT:
        yield "law 5: the answer of a batch is another than alone"


def _engines(graph: Graph, answer: Tensor, images: Tensor, masks: Tensor) -> Iterator[str]:
    settings = dataclasses.asdict(graph.settings)
    names = ("dense", "packed") if packs(graph) else ("dense", "auto")
    removals = {name: LayerMasking(graph, engine=name, **settings) for name in names}
    for name, removal in removals.items():
        if (error := apart(removal(images, masks), answer)) > EXACT:
            yield f"law 9: {name} is off by {error:.1e}"
    dense, packed = (removal(images.float(), masks) for removal in removals.values())
    if (error := apart(packed, dense)) > 1e-4:
        yield f"law 9: in float32 the engines are {error:.1e} apart"


def _twin(graph: Graph, values: list[Masked], image: np.ndarray, mask: np.ndarray, at: int) -> Iterator[str]:
    for i, (theirs, x) in enumerate(zip(graph.twin(image, mask), values, strict=False)):
        if x.visible[0].numel() == 1 < x.value[0, 0].numel():  # of one cell: all alike from here on
            return
        seen = _mask(x)[at].numpy()
        frame = torch.tensor(False) if x.frame is None else x.frame.expand(x.value.shape)[at]
        if not (seen == theirs.visible).all() or not (frame.numpy() == theirs.frame).all():
            yield f"law 6: the mask of value {i} is not the twin's"
            return
        error = apart(
            torch.where(torch.from_numpy(seen), x.value[at], 0),
            torch.from_numpy(np.where(theirs.visible, theirs.value, 0)),
        )
        if error > EXACT:
            yield f"law 6: value {i} is {error:.1e} off the twin's"
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
