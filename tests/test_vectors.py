"""The vector of an image: of which nothing is visible, it holds what pools and biases gave it.

Every operation goes on from there as the plain model would, so all spellings of one head agree (law 11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layermask as lm
from layermask import Masked

W = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
W5 = torch.randn(15, 5, generator=torch.Generator().manual_seed(5))
LEVELS = torch.arange(5.0)

HEADS: dict[str, Callable] = {
    "normalize": F.normalize,
    "division by the norm": lambda v: v / v.norm(dim=1, keepdim=True),
    "division by a negative norm": lambda v: v / torch.linalg.vector_norm(v, -1, dim=1, keepdim=True),
    "standardised": lambda v: (v - v.mean(1, keepdim=True)) / v.std(1, keepdim=True),
    "cosine": lambda v: F.cosine_similarity(v[:, None], W[None], dim=-1),
    "linear": lambda v: F.linear(v, W),
    "matmul": lambda v: v @ W.T,
    "mm": lambda v: torch.mm(v, W.T),
    "einsum": lambda v: torch.einsum("nc,dc->nd", v, W),
    "einsum with an ellipsis": lambda v: torch.einsum("...c,dc->...d", v, W),
    "addmm": lambda v: torch.addmm(torch.ones(4), v, W.T),
    "tensordot": lambda v: torch.tensordot(v, W.T, 1),
    "some classes": lambda v: v[:, [0, 2, 4]],
    "some classes, as a tensor": lambda v: v[:, torch.tensor([0, 2, 4])],
    "some classes, as a mask": lambda v: v[:, LEVELS > 1],
    "index_select": lambda v: v.index_select(1, torch.tensor([0, 2, 4])),
    "gather": lambda v: v.gather(1, torch.tensor([[3, 1]]).expand(len(v), 2)),
    "ensemble": lambda v: torch.stack([v, 2 * v]).mean(0),
    "one hot": lambda v: F.one_hot(v.argmax(1), 5).float(),
    "argmin": lambda v: LEVELS[v.argmin(1)],
    "topk": lambda v: v.topk(2)[0],
    "sort": lambda v: v.sort(descending=True)[0],
    "max": lambda v: v.max(1)[0],
    "amin": lambda v: v.amin(1),
    "var": lambda v: v.var(1),
    "prod": lambda v: v.prod(1),
    "cumsum": lambda v: v.cumsum(1),
    "cumprod": lambda v: v.cumprod(1),
    "logsumexp": lambda v: v.logsumexp(1),
    "any": lambda v: (v > 0.1).any(1).float(),
    "all": lambda v: (v > -9).all(1).float(),
    "group_norm": lambda v: F.group_norm(v, 1),
    "fft": lambda v: torch.fft.rfft(v).abs(),
    "attention": lambda v: F.scaled_dot_product_attention(*[v[:, None]] * 3)[:, 0],
    "cdist": lambda v: torch.cdist(v, W),
    "scatter": lambda v: v.scatter(1, torch.tensor([[2, 0]]).expand(len(v), 2), v),
    "scatter_add": lambda v: v.scatter_add(1, torch.tensor([[2, 2]]).expand(len(v), 2), v),
    "median": lambda v: v.median(1)[0],
    "kthvalue": lambda v: v.kthvalue(2, 1)[0],
    "quantile": lambda v: v.quantile(0.3, 1),
    "affine_grid": lambda v: F.affine_grid(v[:, [0, 1, 2, 3, 4, 0]].view(-1, 2, 3), [len(v), 1, 2, 2], False),
    "a cell": lambda v: torch.gru_cell(v, v, W5, W5),
    "bilinear, which has no rule": lambda v: F.bilinear(v, v.sin(), W[:, None] * W[0, :, None]),
    "renorm, which has no rule": lambda v: torch.renorm(v, 2, 0, 0.5),
    "mode, which has no rule": lambda v: v.round().mode(1)[0],
    "bucketize, which has no rule": lambda v: torch.bucketize(v, LEVELS).float(),
    "cross, which has no rule": lambda v: torch.linalg.cross(v[:, :3], v[:, 2:]),
    "pairwise_distance": lambda v: F.pairwise_distance(v, W[:1]),
}


class Net(nn.Module):
    def __init__(self, head: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(6)])
        self.fc, self.head = nn.Linear(8, 5), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(self.convs(x).relu().mean((2, 3))))


@pytest.mark.parametrize("engine", ["dense", "auto"])
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_of_nothing_visible_every_head_answers_as_of_the_bias(head: str, engine: str) -> None:
    net = Net(HEADS[head]).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    visible = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    visible[0] = False
    got = lm.LayerMasking(net, engine=engine)(x, visible)
    want = torch.cat([HEADS[head](net.fc.bias[None]), net(x[1:])])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_what_has_no_rule_passes_for_vectors_only_and_only_image_by_image() -> None:
    shown = torch.tensor([[True], [False], [True]])
    v = Masked(torch.tensor([[1.0, 5.0], [torch.nan, 7.0], [3.0, 2.0]]), shown)
    out = torch.renorm(v, 2, 0, 1.0)
    assert torch.equal(out.visible, shown)
    assert torch.equal(out.value[0], torch.renorm(v.value[:1], 2, 0, 1.0)[0]), "the NaN of another image"
    for function in (torch.unique, torch.trace, lambda x: torch.renorm(x.T, 2, 1, 1.0), lambda x: x.tolist()):
        with pytest.raises(lm.NoMaskRule):
            function(v)
    with pytest.raises(lm.NoMaskRule):
        torch.renorm(Masked(X, M), 2, 0, 1.0)
    with pytest.raises(lm.NoMaskRule):
        v.renorm_(2, 0, 1.0)


def test_what_was_cut_out_of_a_map_is_not_determined() -> None:
    visible = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    visible[..., 2:] = True
    x = Masked(torch.full((1, 3, 4, 4), torch.nan).where(~visible, 1.0), visible)
    cell = x[:, :, 0, 0]
    assert cell.cut and torch.equal(cell.norm(dim=1).value, torch.zeros(1))


# --- masks stay narrow where an operation changes no position ---------------------------------------------

N, C, SIZE = 2, 8, 6
X = torch.randn(N, C, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
M = torch.rand(N, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) > 0.5


def _written_back(x: Masked) -> Masked:
    x[:, :1] = x[:, :1].clone()
    return x


IDENTITIES: dict[str, Callable] = {
    "images": lambda x: x[torch.arange(N)],
    "a list of images": lambda x: x[list(range(N))],
    "images by a mask": lambda x: x[torch.ones(N, dtype=torch.bool)],
    "channels": lambda x: x[:, torch.arange(C)],
    "channels from the end": lambda x: x[..., torch.arange(C), :, :],
    "rows": lambda x: x[:, :, torch.arange(SIZE)],
    "cells": lambda x: x[..., torch.arange(SIZE)[:, None], torch.arange(SIZE)],
    "gather": lambda x: x.gather(1, torch.arange(C).view(1, C, 1, 1).expand(N, C, SIZE, SIZE)),
    "flatten and view": lambda x: x.flatten(1).view(x.shape),
    "flatten twice": lambda x: x.flatten(2).flatten(1).reshape(N, C, -1).view(x.shape),
    "written back": _written_back,
    "sorted channels": lambda x: x.sort(1)[0],
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_mask_stays_as_narrow_as_it_was(name: str) -> None:
    found = []

    class Model(nn.Module):
        def forward(self, x: Masked) -> Masked:
            found.append(IDENTITIES[name](x + 0))
            return found[0].mean((2, 3))

    with torch.no_grad():
        lm.LayerMasking(Model().eval(), engine="dense")(X, M)
    assert torch.equal(found[0].visible, M)


def test_the_mark_of_padding_stays_as_narrow_too() -> None:
    found = []

    class Model(nn.Module):
        def forward(self, x: Masked) -> Masked:
            x = F.pad(x, (1, 1, 1, 1))
            found.extend([x, x.flatten(1).view(x.shape), x[:, torch.arange(C)]])
            return x.mean((2, 3))

    with torch.no_grad():
        lm.LayerMasking(Model().eval(), engine="dense")(X, M)
    assert all(torch.equal(each.is_padding, found[0].is_padding) for each in found)


def test_reading_by_index_reads_the_mask_alike() -> None:
    """Every kind of index, of a mask that varies along some axes: what torch reads of the expanded mask."""
    for visible in (M, M[:, :, :1], M[:1], M.expand(N, C, SIZE, SIZE).clone()):
        for index in (
            torch.tensor([1]),
            (slice(None), [0, 3], slice(1, 4)),
            (torch.tensor([[0], [1]]), torch.tensor([[0, 2]])),
            (0, slice(None), torch.tensor([1, 2, 3])),
            (torch.tensor(1), Ellipsis, 2),
            (slice(None), torch.tensor([1, 2]), 3, torch.tensor([0, 4])),
            (torch.tensor([0, 1]), slice(None), torch.tensor([3, 4])),
            (None, Ellipsis, -1),
            (slice(None), slice(2, 2)),
            (X[:, 0] > 0, slice(None))[:1],
        ):
            if isinstance(index[0], Tensor) and index[0].dtype is torch.bool:
                index = (index[0].any(2).any(1),)
            out = Masked(X, visible)[index]
            assert torch.equal(out.value, X[index])
            assert torch.equal(out.visible.expand(out.value.shape), visible.expand(X.shape)[index])


def test_plain_channels_join_a_map_of_one_channel() -> None:
    x = Masked(X[:, :1], M)
    for parts in ([x, X[:, :1]], [x, X[:, :3]], [X[:, :1], x]):
        assert torch.equal(torch.cat(parts, 1).visible, M)


def test_a_write_keeps_the_mark_of_padding_elsewhere() -> None:
    x = F.pad(Masked(X, M), (1, 1, 1, 1))
    padding = x.is_padding.expand(x.value.shape).clone()
    x[:, 0, 0, 0] = 1.0
    padding[:, 0, 0, 0] = False
    assert torch.equal(x.is_padding, padding)


# --- spellings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [-torch.inf, -1, -2])
def test_norms_of_the_least_leave_out_what_is_hidden(p: float) -> None:
    x = Masked(torch.tensor([[3.0, -2.0, 5.0, 1.0]]), torch.tensor([[True, True, True, False]]))
    want = torch.linalg.vector_norm(torch.tensor([3.0, -2.0, 5.0]), p)
    torch.testing.assert_close(torch.linalg.vector_norm(x, p, dim=1).value[0], want)
    none = Masked(x.value, torch.zeros(1, 4, dtype=torch.bool))
    assert torch.linalg.vector_norm(none, p, dim=1).value.item() == 0


def test_softmax_over_another_axis_gives_no_weights_of_a_sum() -> None:
    """Slot attention: softmax over slots, then a sum over positions."""
    x = Masked(X.flatten(2).transpose(1, 2), M.flatten(2).transpose(1, 2))
    slots = (torch.randn(5, C, generator=torch.Generator().manual_seed(4)) @ x.transpose(1, 2)).softmax(1)
    product, sums = slots @ x, (slots.unsqueeze(-1) * x.unsqueeze(1)).sum(2)
    for other in (torch.einsum("bsn,bnd->bsd", slots, x), sums):
        torch.testing.assert_close(other.value, product.value)
        assert torch.equal(
            other.visible.expand(product.value.shape), product.visible.expand(sums.value.shape)
        )


def test_errors_of_the_model_are_its_own() -> None:
    """Only a convolution that says so was given too few channels; the one registered first may be a head."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem, self.fc = nn.Conv2d(8, 5, 1), nn.Conv2d(3, 8, 3), nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.head(self.stem(x)).flatten(1))

    for engine in ("dense", "auto"):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            lm.LayerMasking(Model().eval(), engine=engine)(torch.zeros(1, 3, 6, 6), M[:1])


def test_a_view_of_another_dtype_is_refused() -> None:
    with pytest.raises(lm.NoMaskRule, match=r"Tensor\.view\(dtype\)"):
        Masked(X, M).view(torch.int32)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_zero_by_zero_of_nothing_visible_is_zero(engine: str) -> None:
    """Of what is visible it stays as the plain model has it."""

    class Ratio(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, 4, 3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x).mean((2, 3))
            return y / y.norm(dim=1, keepdim=True), y * 0 / 0

    visible = torch.ones(2, 1, *X.shape[2:], dtype=torch.bool)
    visible[1] = False
    removal = lm.LayerMasking(Ratio().to(X.dtype).eval(), engine=engine)
    with torch.no_grad():
        unit, undefined = removal(X[:1].expand(2, -1, -1, -1), visible)
    assert not unit[1].any() and unit[0].norm() == pytest.approx(1)
    assert undefined[0].isnan().all() and not undefined[1].any()
