"""Writing: what is lost in a plain tensor is refused, what is masked is written as torch writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import InputError, LayerMasking, Masked, NoMaskRule

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.5


def pair(x: Tensor = X, visible: Tensor = M) -> Masked:
    return Masked(x.clone(), visible)


def shown(x: Masked) -> Tensor:
    return torch.where(x.visible, x.value, 0)


LOST: dict[str, Callable] = {
    "add_": lambda buffer, x: buffer.add_(x),
    "copy_": lambda buffer, x: buffer.copy_(x),
    "masked_fill_": lambda buffer, x: buffer.masked_fill_(x > 0, 1.0),
    "index": lambda buffer, x: buffer.__setitem__(0, x[0]),
    "slice": lambda buffer, x: buffer.__setitem__((slice(None), 1), x[:, 1]),
    "masked index": lambda buffer, x: buffer.__setitem__(x > 0, 0.0),
    "index_copy_": lambda buffer, x: buffer.index_copy_(0, torch.tensor([0]), x[:1]),
    "+=": lambda buffer, x: buffer.__iadd__(x),
    "out=": lambda buffer, x: torch.add(x, 1, out=buffer),
    "out= of cat": lambda buffer, x: torch.cat([x], out=buffer),
    "fill_": lambda buffer, x: buffer.fill_(x.sum()),
}


@pytest.mark.parametrize("name", LOST)
def test_a_masked_value_is_not_written_into_a_plain_tensor(name: str) -> None:
    buffer = torch.zeros_like(X)
    with pytest.raises((NoMaskRule, TypeError), match=r"plain tensor, which has no mask|index"):
        LOST[name](buffer, pair())
    assert not buffer.any()


def test_plus_equals_into_a_plain_tensor_is_refused() -> None:
    total = alias = torch.zeros_like(X)
    with pytest.raises((NoMaskRule, TypeError), match="plain tensor, which has no mask"):
        total += pair()
    assert total is alias


INPLACE: dict[str, Callable] = {
    "relu_": lambda x: x.relu_(),
    "torch.relu_": lambda x: torch.relu_(x),
    "inplace=True": lambda x: F.relu(x, inplace=True),
    "module": lambda x: nn.ReLU(inplace=True)(x),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "leaky": lambda x: F.leaky_relu(x, 0.2, True),
    "add_": lambda x: x.add_(1),
    "alpha": lambda x: x.add_(X, alpha=2),
    "clamp_": lambda x: x.clamp_(min=0),
    "addcmul_": lambda x: x.addcmul_(X, X),
    "masked_fill_": lambda x: x.masked_fill_(X > 0, 3.0),
    "zero_": lambda x: x.zero_(),
}


@pytest.mark.parametrize("name", INPLACE)
def test_in_place_operations_change_the_target(name: str) -> None:
    """Value and object are the same as before, so what refers to either sees the change, as in torch."""
    x, plain = pair(), X.clone()
    value, view = x.value, x[:, 1]
    out = INPLACE[name](x)
    INPLACE[name](plain)
    assert out.value.data_ptr() == value.data_ptr()
    assert torch.equal(x.value, plain) and torch.equal(value, plain)
    assert torch.equal(view.value, plain[:, 1])
    assert torch.equal(x.visible, M)


OPERATORS = ["__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", ["plain", "number", "same mask", "other mask"])
def test_augmented_assignment(name: str, other: str) -> None:
    positive, right = X.abs() + 0.5, M.flip(-1)
    operand = {
        "plain": positive,
        "number": 2.0,
        "same mask": pair(positive, M),
        "other mask": pair(positive, right),
    }[other]
    x, plain = pair(positive), positive.clone()
    before = x
    x = getattr(x, name)(operand)
    plain = getattr(plain, name)(2.0 if other == "number" else positive)
    assert x is before
    seen = M & right if other == "other mask" else M
    assert torch.equal(x.visible.expand(2, 1, 4, 5), seen)
    assert torch.equal(shown(x), torch.where(seen, plain, 0))


ALIASES: dict[str, Callable] = {
    "contiguous": lambda x: x.contiguous(),
    "view": lambda x: x.view(2, 3, 20),
    "chunk": lambda x: x.chunk(3, 1)[0],
    "slice": lambda x: x[:, :, 1:],
    "dropout in evaluation": lambda x: F.dropout(x, 0.5, training=False),
    "to": lambda x: x.to(torch.float32),
    "transpose": lambda x: x.transpose(1, 2),
    "permutation of a view": lambda x: x.flatten(2).permute(0, 2, 1),
    "detach": lambda x: x.detach(),
    "expand_as": lambda x: x.expand_as(X),
    "itself": lambda x: x,
}


@pytest.mark.parametrize("write", ["the original", "the alias"])
@pytest.mark.parametrize("name", ALIASES)
def test_writing_in_place_leaks_through_no_alias(name: str, write: str) -> None:
    """Law 2: what the other operand's smaller mask hides stays hidden behind every name of the storage."""

    def run(fill: float) -> list[Tensor]:
        x = Masked(X.clone(), torch.ones_like(M))
        alias = ALIASES[name](x)
        target = x if write == "the original" else alias
        other = torch.where(M, X, fill) if target is x else ALIASES[name](Masked(torch.where(M, X, fill), M))
        other = Masked(other, M) if target is x else other
        target += other
        return [shown(x), shown(alias)]

    for a, b in zip(run(0.0), run(1e3), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("count", [2, 3])
def test_one_image_under_many_masks_is_written_for_each(count: int) -> None:
    """An expanded value has no place of its own for each mask, so it gets one."""
    image, visible = X[:1].clone(), torch.rand(count, 1, 4, 5) < 0.5
    x = Masked(image.expand(count, -1, -1, -1), visible)
    other = torch.randn(count, 3, 4, 5)
    assert x.copy_(Masked(other, visible)) is x
    assert torch.equal(shown(x), torch.where(visible, other, 0))
    assert torch.equal(image, X[:1])


def test_a_value_that_a_hook_gives_stays() -> None:
    """And what a user's own rule gives: both may be kept, and seen again with another mask."""
    kept = torch.randn(2, 8, 4, 5)
    before = kept.clone()
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(first, nn.Tanh(), second, nn.ReLU(True)).eval()
    rules = {torch.tanh: lambda input: Masked(kept, input.visible)}
    for engine in ("dense", "sparse"):
        with torch.no_grad():
            LayerMasking(model, engine=engine, rules=rules)(X, M)
            handle = model[0].register_forward_hook(lambda m, i, out: setattr(out, "value", kept))
            LayerMasking(nn.Sequential(model[0], *model[2:]), engine=engine)(X, M)
        handle.remove()
    assert torch.equal(kept, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_a_mask_that_is_written_to_is_refused(engine: str, mode: Any) -> None:
    """Others share it, the caller's own stays as it is, and a new one may be given."""
    model = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]).eval()
    visible = M.clone()

    def write(module: nn.Module, inputs: Any, out: Masked) -> None:
        out.visible[..., :2] = False

    def assign(module: nn.Module, inputs: Any, out: Masked) -> None:
        out.visible = out.visible & False

    handle = model[1].register_forward_hook(write)
    with mode(), pytest.raises(InputError, match="changed in place"):
        LayerMasking(model, engine=engine, growth="center")(X, visible)
    handle.remove()
    assert torch.equal(visible, M)
    model[1].register_forward_hook(assign)
    with mode():
        assert not LayerMasking(model, engine=engine)(X, visible).any()


def test_values_of_the_caller_stay() -> None:
    """LayerMasking settles its input once: in-place models do not write into the user's images."""
    images = X.clone()
    LayerMasking(nn.Sequential(nn.ReLU(inplace=True)))(images, M)
    assert torch.equal(images, X)


def test_writing_by_index() -> None:
    x, part = pair(), Masked(X[:, 0] * 2, M.flip(-1)[:, 0])
    x[:, 1] = part
    x[:, 2, 1:3] = 7.0
    visible = M.expand(X.shape).clone()
    visible[:, 1] = M.flip(-1)[:, 0]
    visible[:, 2, 1:3] = True
    plain = X.clone()
    plain[:, 1], plain[:, 2, 1:3] = X[:, 0] * 2, 7.0
    assert torch.equal(x.visible.expand(X.shape), visible)
    assert torch.equal(shown(x), torch.where(visible, plain, 0))


# --- what draws, and what is overwritten -------------------------------------------------------------------

DRAWING: dict[str, Callable] = {
    "rrelu": lambda x, training: F.rrelu(x, 0.1, 0.4, training, True),
    "rrelu by name": lambda x, training: F.rrelu(x, training=training, inplace=True),
    "rrelu_": lambda x, training: torch.rrelu_(x, 0.1, 0.4, training),
    "module": lambda x, training: nn.RReLU(inplace=True).train(training)(x),
    "dropout": lambda x, training: F.dropout(x, 0.5, training, True),
    "dropout_": lambda x, training: torch.dropout_(x, 0.5, training),
    "dropout2d": lambda x, training: F.dropout2d(x, 0.5, training, True),
    "alpha_dropout": lambda x, training: F.alpha_dropout(x, 0.5, training, True),
    "feature_alpha_dropout": lambda x, training: F.feature_alpha_dropout(x, 0.5, training, True),
    "normal_": lambda x, training: x.normal_(1, 2),
    "bernoulli_": lambda x, training: x.bernoulli_(0.3),
    "bernoulli_ of p": lambda x, training: x.bernoulli_(X.sigmoid()),
    "uniform_": lambda x, training: x.uniform_(),
    "exponential_": lambda x, training: x.exponential_(),
    "cauchy_": lambda x, training: x.cauchy_(),
    "geometric_": lambda x, training: x.geometric_(0.5),
    "log_normal_": lambda x, training: x.log_normal_(),
    "random_": lambda x, training: x.random_(9),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_in_place_writes_as_torch_does(name: str, training: bool) -> None:
    x, plain = Masked(X.clone(), torch.ones_like(M)), X.clone()
    value, view = x.value, x[:, 1]
    for target in (x, plain):
        torch.manual_seed(3)
        out = DRAWING[name](target, training)
        assert out is target
    assert x.value is value and torch.equal(value, plain)
    assert torch.equal(view.value, plain[:, 1])


@pytest.mark.parametrize("name", ["rrelu", "rrelu_", "normal_", "bernoulli_"])
def test_what_draws_in_place_knows_nothing_of_hidden_entries(name: str) -> None:
    found = []
    for hidden in (0.0, math.nan, 5.0):
        x = Masked(torch.where(M, X, hidden), M)
        torch.manual_seed(3)
        DRAWING[name](x, True)
        assert torch.equal(x.visible, M)
        found.append(shown(x))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


SOURCES: dict[str, Callable] = {
    "plain": lambda: X.flip(0),
    "of one image": lambda: X[:1],
    "of other dtype": lambda: X.double(),
    "fewer dims": lambda: X[0],
    "masked": lambda: Masked(X.flip(0), M.flip(-1)),
    "masked, of one image": lambda: Masked(X[:1], M[:1].flip(-1)),
    "masked, fewer dims": lambda: Masked(X[0], M[0]),
    "masked, noise where hidden": lambda: Masked(torch.where(M, X, 7.0), M),
}


@pytest.mark.parametrize("name", SOURCES)
def test_copy_is_assignment_of_every_entry(name: str) -> None:
    x, y, plain, source = pair(), pair(), X.clone(), SOURCES[name]()
    value, alias = x.value, x.view(2, 3, 20)
    assert x.copy_(source) is x and x.value is value
    y[...] = source
    plain.copy_(source.value if isinstance(source, Masked) else source)
    assert torch.equal(x.visible.expand(X.shape), y.visible.expand(X.shape))
    assert torch.equal(shown(x), shown(y))
    assert torch.equal(shown(x), torch.where(x.visible, plain, 0))
    assert torch.equal(alias.value, x.value.view(2, 3, 20))
    assert x.visible.shape[1] == 1, "a spatial mask stays one"


@pytest.mark.parametrize("write", ["copy_", "index"])
def test_hidden_content_is_not_written_into_shared_storage(write: str) -> None:
    def run(fill: float) -> Tensor:
        x = Masked(X.clone(), torch.ones_like(M))
        alias = x.view(2, 3, 20)
        source = Masked(torch.where(M, X, fill), M)
        x.copy_(source) if write == "copy_" else x.__setitem__(slice(None), source)
        return shown(alias)

    assert torch.equal(run(0.0), run(1e3))


SQUARE, ROW = X[0, 0, :, :4], X[0, 0, 0, :4]
FORMS: dict[str, tuple[Callable, Tensor]] = {
    "addmm_": (lambda x: x.addmm_(SQUARE, SQUARE.mT, beta=2), SQUARE),
    "addmv_": (lambda x: x.addmv_(SQUARE, ROW), ROW),
    "torch.addmv_": (lambda x: torch.addmv_(x, SQUARE, ROW), ROW),
    "baddbmm_": (lambda x: x.baddbmm_(X[:, 0, :, :4], X[:, 1, :, :4]), X[:, 2, :, :4]),
    "cumsum_": (lambda x: x.cumsum_(1), X),
    "cumprod_": (lambda x: x.cumprod_(-1), X),
    "tril_": (lambda x: x.tril_(1), X),
    "triu_": (lambda x: x.triu_(), X),
    "floor_divide_": (lambda x: x.floor_divide_(0.3), X),
    "squeeze_": (lambda x: x.squeeze_(1), X[:, :1]),
    "unsqueeze_": (lambda x: x.unsqueeze_(2), X),
    "transpose_": (lambda x: x.transpose_(1, 3), X),
    "swapaxes_": (lambda x: x.swapaxes_(0, 2), X),
    "swapdims_": (lambda x: x.swapdims_(0, 2), X),
    "t_": (lambda x: x.t_(), SQUARE),
}


@pytest.mark.parametrize("name", FORMS)
def test_in_place_forms_follow_those_out_of_place(name: str) -> None:
    function, start = FORMS[name]
    seen = torch.rand(start.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    plain, whole = start.clone(), Masked(start.clone(), torch.ones_like(seen))
    storage = whole.value.untyped_storage().data_ptr()
    assert function(whole) is whole
    function(plain)
    assert torch.equal(whole.value, plain) and whole.visible.all()
    assert whole.value.untyped_storage().data_ptr() == storage
    some, theirs = Masked(start.clone(), seen), out_of_place(name, Masked(start.clone(), seen))
    function(some)
    assert torch.equal(some.visible.expand(some.shape), theirs.visible.expand(theirs.shape))
    assert torch.allclose(shown(some), shown(theirs))


def out_of_place(name: str, x: Masked) -> Masked:
    """What the function gives if the method that it calls is the one out of place."""

    class Apart:
        def __getattr__(self, name: str) -> Callable:
            return getattr(x, name[:-1])

    return torch.addmv(x, SQUARE, ROW) if name == "torch.addmv_" else FORMS[name][0](Apart())
