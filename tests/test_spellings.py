"""Every spelling of a function in the table of rules answers as torch does, and keeps the mask.

Aliases (`torch.arccos`, `Tensor.greater`) have no samples of their own in PyTorch's database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layermask import Masked
from layermask.core import RULES
from layermask.core.rule_table import name_of
from layermask.rules.metadata import _ASKED, _LIKENESS
from layermask.rules.pointwise import functions

VISIBLE = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
OTHER = torch.rand(2, 1, 4, 1, generator=torch.Generator().manual_seed(1)) < 0.5
POINTWISE = {
    f"{name_of(function)} {function.__name__}": (function, in_place) for function, in_place in functions()
}
WAYS: list[Callable[[Any, Any], tuple]] = [
    lambda x, y: (x,),
    lambda x, y: (x, y),
    lambda x, y: (x, 0.3),
    lambda x, y: (x, 2),
    lambda x, y: (2, x),
    lambda x, y: (x, 0.2, 0.7),
    lambda x, y: (x, y, y),
    lambda x, y: (x, y, 0.5),
    lambda x, y: (x, 0.5, True),
    lambda x, y: (x, torch.float64),
    lambda x, y: (x, 0.1, 0, 0, 255),
]
"""Arguments; the first that torch takes are tried."""
NUMBERS = [torch.float64, torch.int64, torch.bool, torch.complex128, torch.float32]


def draw(dtype: torch.dtype, seed: int) -> Tensor:
    number = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (
        (number * 7).to(dtype)
        if dtype is torch.int64
        else (number > 0.5)
        if dtype is torch.bool
        else number.to(dtype)
    )


def called(function: Callable, x: Any, y: Any, way: Callable) -> Any:
    torch.manual_seed(0)
    return call(function, *way(x, y))


def call(function: Callable, *args: Any) -> Any:
    """Methods are called as such: they take no other class for themselves."""
    path, _, name = name_of(function).rpartition(".")
    if path != "torch.Tensor":
        return function(*args)
    if function.__name__ == "__rdiv__":  # as Python comes to it; called by name, torch answers otherwise
        divisor, dividend = args
        return dividend / divisor
    if function.__name__ in ("__div__", "__idiv__"):  # as torch has named them before Python 3
        name = function.__name__.replace("div", "truediv")
    return getattr(args[0], name)(*args[1:])


def known(function: Callable) -> Iterator[tuple[torch.dtype, Callable, Tensor]]:
    """The first arguments that torch takes for a tensor of the input's shape, and its answer."""
    for dtype in NUMBERS:
        for way in WAYS:
            try:
                out = called(function, draw(dtype, 1), draw(dtype, 2), way)
            except (TypeError, RuntimeError, ValueError, NotImplementedError, AttributeError):
                continue
            if isinstance(out, Tensor) and out.shape == (2, 3, 4, 5):
                yield dtype, way, out
                return


NOT_TRIED = {"cuda", "pin_memory", "dropout1d"}
"""They need a device, and three dims."""


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name: str) -> None:
    function, in_place = POINTWISE[name]
    found = next(known(function), None)
    if found is None and function.__name__ in NOT_TRIED:
        pytest.skip("torch takes none of the arguments tried")
    assert found is not None
    dtype, way, plain = found
    first = Masked(draw(dtype, 1), VISIBLE)
    out = called(function, first, draw(dtype, 2), way)
    same(out, plain, VISIBLE)
    if in_place:
        same(first, plain, VISIBLE)
    if way(1, 2) != way(1, 3) and function.__name__ != "type_as":  # two operands
        both = called(function, Masked(draw(dtype, 1), VISIBLE), Masked(draw(dtype, 2), OTHER), way)
        same(both, plain, VISIBLE & OTHER)


BEYOND_ONE = {"acosh", "arccosh", "fix", "trunc", "isinf", "isneginf", "isposinf"}
LARGE = [name for name in POINTWISE if name.split()[1].strip("_") in BEYOND_ONE]


@pytest.mark.parametrize("name", LARGE)
def test_pointwise_of_large_numbers(name: str) -> None:
    """Most functions are tried between 0 and 1, where these answer with NaN or one number."""
    function, in_place = POINTWISE[name]
    number = draw(torch.float64, 1)
    x = torch.where(number > 0.8, torch.inf, torch.where(number < 0.2, -torch.inf, 9 * number))
    first = Masked(x.clone(), VISIBLE)
    out, plain = call(function, first), call(function, x.clone())
    same(out, plain, VISIBLE)
    if in_place:
        same(first, plain, VISIBLE)


def same(ours: Masked, plain: Tensor, visible: Tensor) -> None:
    assert torch.equal(ours.visible.expand(2, 1, 4, 5), visible.expand(2, 1, 4, 5))
    seen = visible.expand_as(plain)
    assert ours.dtype == plain.dtype
    assert torch.allclose(ours.value[seen], plain[seen], rtol=0, atol=0, equal_nan=True)


ASKED = [function for function in RULES if function.__name__ in (*_ASKED, *_LIKENESS)]
EXTRA: dict[str, tuple] = {
    "new_empty": ((2,),),
    "new_full": ((2,), 3.0),
    "new_ones": ((2,),),
    "new_zeros": ((2,),),
    "full_like": (3.0,),
    "randint_like": (9,),
    "result_type": (torch.ones(1, dtype=torch.float64),),
    "is_same_size": (torch.ones(1),),
}


@pytest.mark.parametrize("function", ASKED, ids=name_of)
def test_what_is_asked_of_a_value_is_what_its_plain_value_answers(function: Callable) -> None:
    extra, x = EXTRA.get(function.__name__, ()), draw(torch.float32, 1)
    answers = []
    for value in (x, Masked(x, VISIBLE)):
        torch.manual_seed(0)
        answers.append(call(function, value, *extra))
    plain, ours = answers
    assert type(ours) is type(plain)
    if isinstance(plain, Tensor):
        assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)
        assert "empty" in function.__name__ or torch.equal(ours, plain)
    else:
        assert ours == plain


CELLS = F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 3, 4, 5], align_corners=False)


def written(x: Masked) -> Masked:
    x[..., 0] = 1
    return x


ALIASES: dict[str, tuple[Callable, Callable]] = {
    "moveaxis": (lambda x: torch.moveaxis(x, 1, -1), lambda x: torch.movedim(x, 1, -1)),
    "adjoint": (lambda x: x.adjoint(), lambda x: x.transpose(-2, -1)),
    "concat": (lambda x: torch.concat([x, x], 2), lambda x: torch.cat([x, x], 2)),
    "concatenate": (lambda x: torch.concatenate([x, x], 2), lambda x: torch.cat([x, x], 2)),
    "softmin": (lambda x: F.softmin(x, -1), lambda x: F.softmax(-x, -1)),
    "conv1d": (
        lambda x: F.conv1d(x.flatten(2), torch.ones(2, 3, 3), padding=1),
        lambda x: F.conv2d(x.flatten(2)[:, :, None], torch.ones(2, 3, 1, 3), padding=(0, 1))[:, :, 0],
    ),
    "conv3d": (
        lambda x: F.conv3d(x[:, :, None], torch.ones(2, 3, 1, 3, 3), padding=(0, 1, 1))[:, :, 0],
        lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3), padding=1),
    ),
    "conv_transpose1d": (
        lambda x: F.conv_transpose1d(x.flatten(2), torch.ones(3, 2, 3), padding=1),
        lambda x: F.conv_transpose2d(x.flatten(2)[:, :, None], torch.ones(3, 2, 1, 3), padding=(0, 1))[
            :, :, 0
        ],
    ),
    "conv_transpose3d": (
        lambda x: F.conv_transpose3d(x[:, :, None], torch.ones(3, 2, 1, 3, 3), padding=(0, 1, 1))[:, :, 0],
        lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 3, 3), padding=1),
    ),
    "rms_norm": (
        lambda x: F.rms_norm(x, x.shape[-1:], eps=0.1),
        lambda x: x * ((x * x).mean(-1, keepdim=True) + 0.1).rsqrt(),
    ),
    "max_pool1d": (
        lambda x: F.max_pool1d(x.flatten(2), 2),
        lambda x: F.max_pool2d(x.flatten(2)[:, :, None], (1, 2))[:, :, 0],
    ),
    "max_pool3d": (
        lambda x: F.max_pool3d(x[:, :, None], (1, 2, 2))[:, :, 0],
        lambda x: F.max_pool2d(x, 2),
    ),
    "fold": (lambda x: F.fold(F.unfold(x[..., :4], 2, stride=2), (4, 4), 2, stride=2), lambda x: x[..., :4]),
    "grid_sample": (
        lambda x: F.grid_sample(x, CELLS, "nearest", align_corners=False),
        lambda x: x,
    ),
    "interpolate": (
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2),
    ),
    "pad": (lambda x: F.pad(x, (-1, -1)), lambda x: x[..., 1:-1]),
    "setitem": (
        lambda x: written(x.clone()),
        lambda x: torch.cat([torch.ones(2, 3, 4, 1), x[..., 1:]], -1),
    ),
    "cosine_similarity": (
        lambda x: F.cosine_similarity(x, x.flip(0), -1),
        lambda x: (F.normalize(x + 0 * x.flip(0), dim=-1) * F.normalize(x.flip(0) + 0 * x, dim=-1)).sum(-1),
    ),
    "pairwise_distance": (
        lambda x: F.pairwise_distance(x, x.flip(0), eps=0.1),
        lambda x: (x - x.flip(0) + 0.1).norm(2, -1),
    ),
}
"""A spelling, and another with the same meaning."""


@pytest.mark.parametrize("name", ALIASES)
def test_two_spellings_of_the_same(name: str) -> None:
    one, other = (spelling(Masked(draw(torch.float32, 1), VISIBLE)) for spelling in ALIASES[name])
    assert one.shape == other.shape
    assert torch.equal(one.visible.expand(one.shape), other.visible.expand(one.shape))
    seen = one.visible.expand(one.shape)
    assert torch.allclose(one.value[seen], other.value[seen], rtol=1e-5, atol=1e-5)


def test_dropout_of_sequences_keeps_the_mask() -> None:
    x = draw(torch.float32, 1).flatten(2)
    out = F.dropout1d(Masked(x, VISIBLE.flatten(2)), 0.5, False)
    assert torch.equal(out.value, x) and torch.equal(out.visible, VISIBLE.flatten(2))


NORMS: dict[str, Callable] = {
    "instance_norm": lambda x: F.instance_norm(x, torch.zeros(3), torch.ones(3), use_input_stats=False),
    "group_norm": lambda x: F.group_norm(x, 3),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-2:]),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_and_dropouts_keep_the_mask(name: str) -> None:
    out = NORMS[name](Masked(draw(torch.float32, 1), VISIBLE))
    assert torch.equal(out.visible, VISIBLE)
