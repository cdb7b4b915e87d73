"""The value that flows, the table of rules, and what the library refuses, in which words."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import RULES, LayerMasking, Masked, NoMaskRule, overriding, rule
from layermask import visibility as masks
from layermask.masked import Run, Settings, settled

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.5


def pair(x: Tensor = X, visible: Tensor = M) -> Masked:
    return Masked(x.clone(), visible)


def shown(x: Masked) -> Tensor:
    return torch.where(x.visible, x.value, 0)


# --- the pair ----------------------------------------------------------------------------------------------

MISFITS: list[tuple[Any, Any, type, str]] = [
    (X, M.float(), TypeError, "visible must be bool (True = visible), not torch.float32."),
    (X, M[0], ValueError, "visible of shape (1, 4, 5) does not fit a value of shape (2, 3, 4, 5)"),
    (X, M[:, :, :2], ValueError, "it needs as many dims, each of the same size or 1."),
    (X.numpy(), M, TypeError, "Masked takes two tensors, not ndarray and Tensor."),
    (X, None, TypeError, "Masked takes two tensors, not Tensor and NoneType."),
]


@pytest.mark.parametrize("value, visible, error, message", MISFITS, ids=[m for *_, m in MISFITS])
def test_what_makes_no_pair(value: Any, visible: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Masked(value, visible)


@pytest.mark.parametrize(
    "name", "shape dtype device ndim is_cuda requires_grad is_leaf itemsize layout".split()
)
def test_plain_properties_are_the_values(name: str) -> None:
    assert getattr(pair(), name) == getattr(X, name)


def test_sizes_are_numbers() -> None:
    x = pair()
    assert (len(x), x.size(1), x.dim(), x.numel(), x.size()) == (2, 3, 4, 120, X.size())
    assert x.is_floating_point() and not x.is_complex()
    assert repr(x) == "Masked(shape=(2, 3, 4, 5), visible=(2, 1, 4, 5), dtype=torch.float32)"


CONVERSIONS: dict[str, tuple[Callable, str]] = {
    "bool": (bool, "truth value of a Masked is undefined"),
    "if": (lambda x: 1 if x.sum() > 0 else 0, "truth value of a Masked is undefined"),
    "not": (lambda x: not x, "truth value of a Masked is undefined"),
    "iteration": (lambda x: list(x), r"cannot be iterated over.*use \.unbind\(0\)"),
    "unpacking": (lambda x: (lambda a, b: a)(*x), r"cannot be iterated over.*use \.unbind\(0\)"),
    "numpy": (np.asarray, "cannot become a numpy array"),
    "item": (lambda x: x.sum().item(), "torch.Tensor.item has no rule"),
    "tolist": (lambda x: x.tolist(), "torch.Tensor.tolist has no rule"),
    "float": (lambda x: float(x.sum()), "not 'Masked'"),
    "int": (lambda x: int(x.sum()), "not 'Masked'"),
    "index": (lambda x: [1, 2][x.sum()], "not Masked"),
    "membership": (lambda x: 3 in x, "Masked"),
    "format": (lambda x: f"{x:.3f}", "Masked"),
    "tensor": (torch.tensor, None),
    "as_tensor": (torch.as_tensor, None),
    "masked index": (lambda x: X[x > 0], "index"),
    "masked index of a pair": (lambda x: x[x > 0], "index"),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_what_would_forget_the_mask(name: str) -> None:
    convert, message = CONVERSIONS[name]
    with pytest.raises((TypeError, NoMaskRule), match=message):
        convert(pair())


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.float64(1.5), np.int64(2)])
def test_numpy_scalars_are_numbers(scalar: Any) -> None:
    for out, plain in (
        (scalar * pair(), scalar * X),
        (pair() / scalar, X / scalar),
        (scalar - pair(), float(scalar) - X),
    ):
        assert isinstance(out, Masked)
        assert torch.allclose(out.value, torch.as_tensor(plain))


def test_copies_are_pairs() -> None:
    twin = copy.deepcopy(pair())
    assert torch.equal(twin.value, X) and torch.equal(twin.visible, M)


# --- the table ---------------------------------------------------------------------------------------------


def test_a_second_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"torch\.relu has a rule already; replace it within `overriding`"):
        rule(torch.relu)(lambda x: x)


def test_a_new_rule_is_used_and_can_be_taken_back() -> None:
    with pytest.raises(NoMaskRule):
        torch.fft.fft2(pair())
    try:
        rule(torch.fft.fft2)(
            lambda input: Masked(torch.fft.fft2(settled(input)), input.visible.any().reshape(1, 1, 1, 1))
        )
        assert torch.fft.fft2(pair()).visible.all()
    finally:
        del RULES[torch.fft.fft2]


def test_overriding_ends_with_its_block() -> None:
    before = dict(RULES)
    with (
        pytest.raises(RuntimeError, match="stop"),
        overriding({torch.relu: lambda x: "mine", torch.fft.fft: lambda x: "new"}),
    ):
        assert torch.relu(pair()) == "mine"
        assert torch.fft.fft(pair()) == "new"
        with overriding({torch.relu: lambda x: "inner"}):
            assert torch.relu(pair()) == "inner"
        assert torch.relu(pair()) == "mine"
        raise RuntimeError("stop")
    assert before == RULES


def test_rules_of_one_model_alone() -> None:
    def doubled(input: Masked) -> Masked:
        return Masked(input.value * 2, input.visible)

    mine = LayerMasking(nn.Sequential(nn.Sigmoid()), rules={torch.sigmoid: doubled})
    assert torch.equal(mine(X, M), torch.where(M, X * 2, 0))
    assert torch.equal(LayerMasking(nn.Sequential(nn.Sigmoid()))(X, M), torch.where(M, X.sigmoid(), 0))


class Deep(nn.Module):
    def __init__(self, call: Callable) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Module()))
        self.stages[1][1].forward = lambda x: call(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


RULELESS: dict[str, Callable] = {
    "torch.fft.fft2": lambda x: torch.fft.fft2(x),
    "torch.Tensor.sort": lambda x: x.sort(),
    "torch.sort": lambda x: torch.sort(x),
    "torch.nn.functional.cross_entropy": lambda x: F.cross_entropy(x[:, :, 0, 0], torch.tensor([0, 1])),
    "torch.Tensor.numpy": lambda x: x.numpy(),
    "torch.linalg.svd": lambda x: torch.linalg.svd(x),
    "torch.nn.functional.grid_sample": lambda x: F.grid_sample(x, X[..., :2].permute(0, 2, 3, 1)[..., :2]),
}


@pytest.mark.parametrize("name", RULELESS)
def test_a_missing_rule_is_named_as_written(name: str) -> None:
    if any(str(f) == name for f in RULES):
        pytest.skip("it has a rule by now")
    with pytest.raises(NoMaskRule) as caught:
        LayerMasking(Deep(RULELESS[name]))(X, M)
    message = str(caught.value)
    assert message.startswith(f"{name} has no rule for masked input")
    assert "at test_mechanism.py:" in message
    assert f"@layermask.rule({name})" in message and "Masked(value, visible)" in message
    assert caught.value.function == name


def test_a_missing_rule_names_the_module() -> None:
    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x)[0]

    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), Sorts()))
    with pytest.raises(NoMaskRule, match=r"in module '1\.1'") as caught:
        LayerMasking(model)(X, M)
    assert caught.value.module == "1.1"


# --- which argument is masked ------------------------------------------------------------------------------

ELSEWHERE: dict[str, tuple[Callable, Tensor]] = {
    "second": (lambda x: torch.add(X, x), X + X),
    "keyword": (lambda x: torch.mul(X, other=x), X * X),
    "reflected": (lambda x: 1 - x, 1 - X),
    "plain on the left": (lambda x: X - x, X - X),
    "parameter on the left": (lambda x: nn.Parameter(X) * x, X * X),
    "in a list": (lambda x: torch.cat([X, x, X], 1), torch.cat([X, X, X], 1)),
    "in a tuple": (lambda x: torch.stack((X, x)), torch.stack((X, X))),
    "in a keyword's list": (lambda x: torch.cat(tensors=[x, X], dim=1), torch.cat([X, X], 1)),
    "third": (lambda x: torch.where(X > 0, X, x), X),
    "bounds": (lambda x: torch.clamp(X, max=x), X),
    "operand of einsum": (lambda x: torch.einsum("nchw,nchw->nchw", X, x), X * X),
    "lerp": (lambda x: torch.lerp(X, x, 0.5), X),
    "addcmul": (lambda x: torch.addcmul(X, x, X, value=2), X + 2 * X * X),
    "maximum": (lambda x: torch.max(X, x), X),
    "matmul": (lambda x: torch.matmul(X.mT, x), X.mT @ X),
    "rmatmul": (lambda x: X.mT @ x, X.mT @ X),
    "list of dims": (lambda x: torch.flip(x, dims=[2]), X.flip(2)),
    "keyword dims": (lambda x: torch.permute(x, dims=[0, 2, 3, 1]), X.permute(0, 2, 3, 1)),
    "lists of shifts": (lambda x: torch.roll(x, [1, 2], [2, 3]), X.roll((1, 2), (2, 3))),
    "starred": (lambda x: x.permute([0, 2, 3, 1]), X.permute(0, 2, 3, 1)),
    "keyword input": (lambda x: F.relu(input=x), X.relu()),
    "keyword input of a conv": (lambda x: F.conv2d(input=x, weight=X[:1]), F.conv2d(X, X[:1])),
    "mean by keyword": (lambda x: torch.mean(input=x, dim=1), X.mean(1)),
    "size of reshape": (lambda x: torch.reshape(x, shape=(2, -1)), X.reshape(2, -1)),
    "sum by axis": (lambda x: x.sum(axis=1), X.sum(1)),
    "concatenation by axis": (lambda x: torch.concatenate([x, X], axis=1), torch.cat([X, X], 1)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_any_argument_may_be_masked(name: str) -> None:
    apply, plain = ELSEWHERE[name]
    out = apply(Masked(X, torch.ones(2, 1, 4, 5, dtype=torch.bool)))
    assert isinstance(out, Masked)
    assert out.visible.all()
    assert torch.allclose(out.value, plain, atol=1e-6)


# --- writing in place --------------------------------------------------------------------------------------

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


# --- the mask's algebra ------------------------------------------------------------------------------------

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
        x.run = Run(Settings(**settings), memo=memo)
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
