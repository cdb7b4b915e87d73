"""The value that flows, the table of rules, and what the library refuses, in which words."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import LayerMasking, Masked, NoMaskRule, overriding, rule
from layermask.core import RULES
from layermask.core.masked import zero_hidden

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
    (X.numpy(), M, TypeError, "Masked takes two tensors, value and visible, not ndarray and Tensor."),
    (X, None, TypeError, "Masked takes two tensors, value and visible, not Tensor and NoneType."),
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


CONVERSIONS: dict[str, Callable] = {
    "__bool__": bool,
    "__bool__ of a sum": lambda x: 1 if x.sum() > 0 else 0,
    "__array__": np.asarray,
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "__float__": lambda x: float(x.sum()),
    "__int__": lambda x: int(x.sum()),
    "__complex__": lambda x: complex(x.sum()),
    "__index__": lambda x: [1, 2][x.sum()],
    "__contains__": lambda x: 3 in x,
    "__format__": lambda x: f"{x.sum():.3f}",
    "__len__": lambda x: torch.tensor([x.sum()]),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_what_would_forget_the_mask(name: str) -> None:
    with pytest.raises(NoMaskRule, match="It takes numbers or memory out of a masked value") as caught:
        CONVERSIONS[name](pair())
    assert caught.value.function == f"torch.Tensor.{name.split()[0]}" and ".value" in str(caught.value)
    assert "test_mechanism.py:" in str(caught.value)


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
        torch.renorm(pair(), 2, 0, 1.0)
    try:
        rule(torch.renorm)(lambda input, *args: Masked(zero_hidden(input).renorm(*args), input.visible))
        assert torch.equal(torch.renorm(pair(), 2, 0, 1.0).visible, pair().visible)
    finally:
        del RULES[torch.renorm]


def test_overriding_ends_with_its_block() -> None:
    before = dict(RULES)
    with (
        pytest.raises(RuntimeError, match="stop"),
        overriding({torch.relu: lambda x: "mine", torch.mode: lambda x, dim: "new"}),
    ):
        assert torch.relu(pair()) == "mine"
        assert torch.mode(pair(), 1) == "new"
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
    "torch.renorm": lambda x: torch.renorm(x, 2, 0, 1e9),
    "torch.Tensor.mode": lambda x: x.mode(),
    "torch.mode": lambda x: torch.mode(x),
    "torch.nn.functional.ctc_loss": lambda x: F.ctc_loss(x[:, :, :, 0], *[torch.ones(1).int()] * 3),
    "torch.linalg.svd": lambda x: torch.linalg.svd(x),
}


@pytest.mark.parametrize("name", RULELESS)
def test_a_missing_rule_is_named_as_written(name: str) -> None:
    with pytest.raises(NoMaskRule) as caught:
        LayerMasking(Deep(RULELESS[name]))(X, M)
    message = str(caught.value)
    assert message.startswith(f"{name} has no rule for masked input")
    assert "at test_mechanism.py:" in message
    assert f"@layermask.rule({name})" in message and "Masked(value, visible)" in message
    assert caught.value.function == name


def test_a_missing_rule_names_the_module() -> None:
    class Mode(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.mode(x)

    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), Mode()))
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
