"""Integers are exact whatever their size, and hidden entries never win over visible ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layermask import Masked

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
SEEN = torch.rand(6, 1, 8, generator=torch.Generator().manual_seed(0)) < 0.5
SEEN[:, :, 0], SEEN[0], SEEN[1] = True, True, False
SEEN[1, :, 3] = True


def numbers(dtype: torch.dtype, seed: int, spread: int = 5) -> Tensor:
    """(6, 3, 8): at the ends of the dtype, and above 2^53, where float64 cannot tell neighbours apart."""
    info, generator = torch.iinfo(dtype), torch.Generator().manual_seed(seed)
    near = [info.min, info.max - spread, (1 << 53) if dtype is torch.int64 else info.max // 2]
    offsets = torch.randint(0, spread, (6, 3, 8), generator=generator)
    return (offsets + torch.tensor(near).view(1, 3, 1)).to(dtype)


def visible_only(function: Callable, x: Tensor) -> list[Any]:
    """What `function` makes of each row's visible entries alone."""
    return [function(x[i, c][SEEN[i, 0]]) for i in range(6) for c in range(3)]


REDUCED: dict[str, Callable] = {
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin(-1),
    "max": lambda x: x.max(-1)[0],
    "min": lambda x: x.min(-1)[0],
    "sum": lambda x: x.sum(-1),
    "prod": lambda x: x.prod(-1),
    "any": lambda x: x.any(-1),
    "all": lambda x: x.all(-1),
    "last of cumsum": lambda x: x.cumsum(-1)[..., -1],
    "last of cumprod": lambda x: x.cumprod(-1)[..., -1],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REDUCED)
def test_reductions_are_exact(name: str, dtype: torch.dtype) -> None:
    function, x = REDUCED[name], numbers(dtype, 1)
    found = function(Masked(x, SEEN))
    assert found.value.dtype is function(x).dtype
    assert found.value.flatten().tolist() == [out.item() for out in visible_only(function, x)]


CHOSEN: dict[str, Callable] = {
    "argmax": lambda x: x.argmax(-1),
    "argmin": lambda x: x.argmin(-1),
    "max": lambda x: x.max(-1)[1],
    "min": lambda x: x.min(-1)[1],
    "max kept": lambda x: x.max(-1, True)[1][..., 0],
    "first of argsort": lambda x: x.argsort(-1)[..., 0],
    "first descending": lambda x: x.sort(-1, descending=True)[1][..., 0],
    "topk": lambda x: x.topk(1, -1)[1][..., 0],
    "bottom": lambda x: x.topk(1, -1, largest=False)[1][..., 0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CHOSEN)
def test_places_are_those_of_visible_extremes(name: str, seed: int, dtype: torch.dtype) -> None:
    function, x = CHOSEN[name], numbers(dtype, seed, spread=2)
    places = function(Masked(x, SEEN))
    places = places.value if isinstance(places, Masked) else places
    extreme = "amin" if any(word in name for word in ("min", "argsort", "bottom")) else "amax"
    best = getattr(Masked(x, SEEN), extreme)(-1).value
    assert torch.equal(x.gather(-1, places[..., None])[..., 0], best)
    assert SEEN.expand(x.shape).gather(-1, places[..., None]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_the_place_in_a_vector_is_visible(name: str, dtype: torch.dtype) -> None:
    """Where no number is worse than the visible ones, what stands for hidden is as good."""
    info = torch.iinfo(dtype)
    x = torch.full((3,), info.min if name == "argmax" else info.max, dtype=dtype)
    place = getattr(Masked(x, torch.tensor([False, True, True])), name)()
    assert place == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", ["sort", "topk"])
def test_hidden_integers_come_last(name: str, descending: bool, dtype: torch.dtype) -> None:
    x = numbers(dtype, 2, spread=2)
    ordered = {
        "sort": lambda x: x.sort(-1, descending),
        "topk": lambda x: x.topk(8, -1, largest=descending),
    }[name]
    values, indices = ordered(Masked(x, SEEN))
    counts = SEEN.sum(-1, keepdim=True)
    assert torch.equal(values.visible, (torch.arange(8) < counts).expand(x.shape))
    assert torch.equal(values.value, x.gather(-1, indices))
    expected = visible_only(lambda x: x.sort(descending=descending)[0].tolist(), x)
    rows = zip(values.value.view(-1, 8).tolist(), counts.expand(6, 3, 1).flatten().tolist(), strict=True)
    assert [row[:count] for row, count in rows] == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CHOSEN)
def test_with_everything_visible_ties_are_torchs(name: str, dtype: torch.dtype) -> None:
    x = numbers(dtype, 3, spread=2)
    places = CHOSEN[name](Masked(x, torch.ones_like(SEEN)))
    assert torch.equal(places, CHOSEN[name](x))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_pools_and_products_of_integers(dtype: torch.dtype) -> None:
    x = numbers(dtype, 4)[:, None]
    seen = SEEN[:, None].expand(6, 1, 3, 8)
    pooled = F.max_pool2d(Masked(x, seen), (3, 2))
    assert pooled.value.dtype is dtype
    best = x.masked_fill(~seen, torch.iinfo(dtype).min).amax(2).view(6, 1, 1, 4, 2).amax(-1)
    assert torch.equal(pooled.value, torch.where(pooled.visible, best, 0))
    a, b = Masked(x[:, 0], SEEN), Masked(x[:, 0].transpose(1, 2), SEEN.transpose(1, 2))
    assert torch.equal((a @ b).value, torch.where(SEEN, x[:, 0], 0) @ torch.where(SEEN, x[:, 0], 0).mT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_of_integers_hides_as_that_of_floats(dtype: torch.dtype) -> None:
    x = numbers(torch.int8, 5).clamp(min=0).to(dtype)
    for function in (
        lambda x: F.softmax(x, -1, dtype=torch.float64),
        lambda x: torch.log_softmax(x, -1, torch.float64),
        lambda x: x.logsumexp(-1).to(torch.float64),
    ):
        ours, theirs = function(Masked(x, SEEN)), function(Masked(x.to(torch.float64), SEEN))
        seen = ours.visible.expand(ours.shape)
        assert torch.allclose(ours.value[seen], theirs.value[seen])


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_max_pools_take_the_largest_visible_cell(dtype: torch.dtype, owned: bool) -> None:
    """Also where it is as small as what stands for hidden cells."""
    generator = torch.Generator().manual_seed(2)
    least = -torch.inf if dtype is torch.float32 else torch.iinfo(dtype).min
    x = torch.randint(0, 3, (4, 3, 8, 8), generator=generator).to(dtype)
    x[x == 0] = least
    visible = torch.rand(4, 1, 8, 8, generator=generator) < 0.4
    with torch.no_grad():
        given: Any = Masked(x, visible) + 0 if owned else Masked(x, visible)
        found, places = F.max_pool2d(given, 2, return_indices=True)
        assert torch.equal(found.value, F.max_pool2d(given, 2).value)
    windows = F.unfold(visible.float(), 2, stride=2).reshape(4, 1, 4, 16) > 0
    cells = x.reshape(4, 3, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(4, 3, 4, 16)
    best = torch.where(windows, cells, least).amax(2).reshape(4, 3, 4, 4)
    seen = windows.any(2).reshape(4, 1, 4, 4).expand(4, 3, 4, 4)
    assert torch.equal(found.visible.expand(4, 3, 4, 4), seen)
    assert torch.equal(found.value[seen], best[seen]) and not found.value[~seen].any()
    flat = places.flatten(2)
    assert torch.equal(x.flatten(2).gather(2, flat).reshape(seen.shape)[seen], best[seen])
    assert visible.expand(x.shape).flatten(2).gather(2, flat).reshape(seen.shape)[seen].all()
