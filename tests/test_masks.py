"""The masks' own algebra, and what one run shares: reshapes, moves, memory, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import LayerMasking, Masked
from layermask.core import mask as masks
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.5


SHAPES = [
    ((2, 3, 4, 5), (2, 3, 20)),
    ((2, 3, 4, 6), (2, 3, 2, 2, 3, 2)),
    ((2, 6, 4), (2, 2, 3, 4)),
    ((2, 6, 4), (12, 4)),
    ((2, 6, 4), (2, 24)),
    ((2, 6, 4), (48,)),
    ((2, 6, 4), (4, 3, 4)),
    ((2, 6, 4), (2, 4, 6)),
    ((2, 6, 4), (8, 6)),
    ((1, 6, 1, 4), (6, 4, 1)),
    ((1, 6, 1, 4), (1, 1, 2, 3, 2, 2)),
    ((4,), (2, 1, 2)),
    ((), (1, 1)),
    ((1,), ()),
]


@pytest.mark.parametrize("old, new", SHAPES)
def test_reshaped_masks(old: tuple, new: tuple) -> None:
    """However narrow a mask is stored, its reshape is that of the expanded one, as narrow as can be told."""
    draw = torch.Generator().manual_seed(0)
    for varied in range(2 ** len(old)):
        mask = torch.rand([n if varied >> d & 1 else 1 for d, n in enumerate(old)], generator=draw) < 0.5
        out = masks.reshape(mask, old, new)
        assert torch.equal(out.expand(new), mask.expand(old).reshape(new))
        if not varied:
            assert out.numel() == 1


@pytest.mark.parametrize("seed", range(6))
def test_moves_of_masks(seed: int) -> None:
    """Random chains of moves carry the mask with the value: here the value says what its mask must be."""
    draw = torch.Generator().manual_seed(seed)
    moves: list[Callable] = [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(1, -1),
        lambda x: x.flip(-1),
        lambda x: x.roll((1, 1), (1, 2)),
        lambda x: x.reshape(x.shape[0], -1, 2, 2),
        lambda x: x.unflatten(1, (2, -1)).flatten(1, 2),
        lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda x: torch.cat([x[:, :, 1:], x[:, :, :1]], 2),
        lambda x: x.unsqueeze(1).repeat(1, 2, 1, 1, 1)[:, 1],
        lambda x: (
            x[:, :, :, [1, 0]]
            if x.shape[-1] == 2
            else x.index_select(-1, torch.arange(x.shape[-1] - 1, -1, -1))
        ),
        lambda x: x.movedim(1, 3).contiguous(),
        lambda x: x.select(1, 2).unsqueeze(1).expand(-1, 4, -1, -1),
    ]
    x = torch.rand(2, 1, 4, 4, generator=draw).expand(2, 4, 4, 4)
    pair = Masked(x.contiguous(), (x > 0.5)[:, :1])
    for index in torch.randint(len(moves), (8,), generator=draw).tolist():
        pair = moves[index](pair)
        assert torch.equal(pair.visible.expand(pair.value.shape), pair.value > 0.5), f"after move {index}"


MOVED: dict[str, Callable] = {
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "windows": lambda x: x.unfold(2, 3, 1).unfold(3, 2, 2),
    "columns": lambda x: F.unfold(x, (3, 2), stride=(1, 2)),
    "phases": lambda x: torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
    "every second": lambda x: x[:, 1::2, ::2],
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3),
    "tiled": lambda x: x.tile(1, 1, 2, 3),
    "repeated": lambda x: x.repeat_interleave(2, 1).repeat_interleave(2, 3),
    "gathered": lambda x: x.index_select(3, torch.tensor([3, 0, 0])),
    "narrowed": lambda x: x.narrow(1, 1, 5).narrow(3, 1, 2),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "rolled": lambda x: x.roll((1, -1, 3), (1, 2, 3)),
    "taken": lambda x: x.take_along_dim(torch.arange(8).view(1, 8, 1, 1).flip(1), 1),
}
STORED = {
    "each entry": (2, 8, 4, 4),
    "each cell": (2, 1, 4, 4),
    "cells of all images": (1, 1, 4, 4),
    "channels": (2, 8, 1, 1),
    "columns": (1, 1, 1, 4),
    "rows of channels": (1, 8, 4, 1),
    "images": (2, 1, 1, 1),
}


@pytest.mark.parametrize("shape", STORED.values(), ids=STORED)
@pytest.mark.parametrize("name", MOVED)
def test_masks_move_as_their_values(name: str, shape: tuple) -> None:
    """However narrow a mask is stored: the value says what its mask must be."""
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    out = MOVED[name](Masked(draw.expand(2, 8, 4, 4).contiguous(), draw > 0.5))
    assert torch.equal(out.visible.expand(out.value.shape), out.value > 0.5)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_single_positions_that_are_stacked_keep_their_masks(axis: int) -> None:
    """Pooled features, one of which saw nothing."""
    pairs = [
        Masked(X[:, :, 0, n], torch.tensor(seen)[:, None])
        for n, seen in enumerate([[True, False], [True, True]])
    ]
    out = torch.stack(pairs, axis)
    assert torch.equal(out.value, torch.stack([x.value for x in pairs], axis))
    shown = torch.stack([x.visible.expand(x.value.shape) for x in pairs], axis)
    assert torch.equal(out.visible.expand(out.value.shape), shown)


@pytest.mark.parametrize("dim", [0, -4])
def test_images_that_are_stacked_keep_their_masks(dim: int) -> None:
    """A batch taken apart and put together again."""
    apart = [x * 2 for x in Masked(X, M).unbind(0)]
    out: Any = torch.stack(apart, dim)
    assert torch.equal(out.visible.expand(X.shape), M.expand(X.shape))
    assert torch.equal(out.value, 2 * X)


def test_a_copy_in_the_likeness_of_a_value_keeps_its_mask() -> None:
    out = Masked(X.double(), M).new_tensor(Masked(X, M))
    assert isinstance(out, Masked)
    assert torch.equal(out.visible, M) and torch.equal(out.value, X.double())


@pytest.mark.parametrize("axis", [1, 4])
def test_maps_that_are_stacked_join(axis: int) -> None:
    other = M.flip(-1)
    out = torch.stack([Masked(X, M), Masked(2 * X, other)], axis)
    assert torch.equal(
        out.visible.expand(out.value.shape), (M & other).unsqueeze(axis).expand(out.value.shape)
    )


@pytest.mark.parametrize("axis", [2, 3])
def test_slices_that_are_stacked_keep_each_its_own_mask(axis: int) -> None:
    slices = [Masked(X, M), Masked(2 * X, M.flip(-1))]
    out, same = torch.stack(slices, axis), torch.cat([x.unsqueeze(axis) for x in slices], axis)
    assert torch.equal(out.value, same.value)
    assert torch.equal(out.visible, torch.stack([x.visible for x in slices], axis))
    assert torch.equal(out.visible, same.visible.expand(out.visible.shape))


@pytest.mark.parametrize("pads", [(1, 2, 0, 0), (0, 0, 2, 1), (1, 0, 1, 2)])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_map_one_cell_wide_is_padded_as_any(axis: int, pads: tuple) -> None:
    """Its mask has size 1 along an axis because the map has."""
    x, visible = X.narrow(axis, 0, 1), M.narrow(axis, 0, 1)
    out = F.pad(Masked(x, visible), pads)
    assert torch.equal(out.visible.expand(2, 1, *out.value.shape[2:]), F.pad(visible, pads, value=True))


def test_a_mask_of_rows_is_padded_as_any() -> None:
    """A mask that is alike along an axis of which its map has many cells."""
    rows = M[..., :1]
    out = F.pad(Masked(X, rows), (1, 1, 0, 0))
    assert torch.equal(
        out.visible.expand(2, 1, 4, 7), F.pad(rows.expand(2, 1, 4, 5), (1, 1, 0, 0), value=True)
    )


def test_what_a_compiler_remembers_is_told_apart_by_all_masks() -> None:
    run, key = ForwardPass(Settings()), ("name", None)
    run.memo["traced"] = [(key, (M, X), "first"), (key, (M,), "second"), (("other", None), (M,), "third")]
    assert [run.traced(key, wanted) for wanted in ((M,), (M, X), (X,), (X, M))] == [
        "second",
        "first",
        None,
        None,
    ]


# --- one run, one thread -----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(12, 12, 3, 2, 1, groups=12),
            nn.Conv2d(12, 12, 3, 2, 1),
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x), inplace=True), 3, 1, 1)
        x = self.b(x) + self.c(x)
        x = x * x.mean((2, 3), keepdim=True).sigmoid()
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(
    "settings",
    [{}, {"fill": "renormalize"}, {"growth": "half"}, {"join": "union", "compat": "paper"}],
    ids=str,
)
def test_what_a_run_remembers_changes_nothing(settings: dict) -> None:
    class Forgetful(dict):
        def __contains__(self, key: object) -> bool:
            return False

        def get(self, key: object, default: Any = None) -> Any:
            return default

    model = Net().eval()
    outs = []
    for memo in ({}, Forgetful()):
        x = Masked(X, M)
        x.forward_pass = ForwardPass(Settings(**settings), memo=memo)
        with torch.no_grad():
            outs.append(model(x).value)
    assert torch.equal(*outs)


def test_threads_do_not_meet() -> None:
    """Each call has its own run: settings and masks of one are none of another's."""
    model = Net().eval()
    removals = [
        LayerMasking(model, growth=g, fill=f) for g in ("any", "center") for f in ("neighbor", "zero")
    ]
    inputs = [(X + i, M.roll(i, -1)) for i in range(4)]
    with torch.no_grad():
        alone = [removal(*x) for removal, x in zip(removals, inputs, strict=True)]
    found: list[list[Tensor]] = [[] for _ in removals]

    def work(i: int) -> None:
        with torch.no_grad():
            found[i] = [removals[i](*inputs[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outs, expected in zip(found, alone, strict=True):
        assert len(outs) == 5 and all(torch.equal(out, expected) for out in outs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes(mode: Callable) -> None:
    removal = LayerMasking(Net().eval())
    with torch.no_grad():
        plain = removal(X, M)
    with mode():
        visible = M.clone()  # an inference tensor in inference mode
        assert torch.allclose(removal(X.clone(), visible), plain, atol=1e-6)


def test_one_image_under_many_masks() -> None:
    removal = LayerMasking(Net().eval())
    visible = torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    with torch.no_grad():
        many = removal(X[:1], visible)
        one_by_one = torch.cat([removal(X[:1], visible[i : i + 1]) for i in range(6)])
        assert torch.allclose(many, one_by_one, atol=1e-6)
        assert torch.allclose(removal(X, visible[:1])[1], removal(X[1:], visible[:1])[0], atol=1e-6)
