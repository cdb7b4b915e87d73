"""Law 10: whatever a program does with a value through torch calls, every engine answers as the dense one.

And with everything visible, as the plain model does. Programs are drawn by hypothesis, which shrinks them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from programs import NAMES, READS, SIZE, VIEWS, WRITES, Model, Step
from torch import Tensor, nn

from layermask import LayerMasking

STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 5)), max_size=7)
HOOKED = st.lists(st.tuples(st.sampled_from((*READS, *WRITES)), st.integers(0, 3)), max_size=2)
X = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
MASKS = {
    "half": torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) > 0.5,
    "all": torch.ones(2, 1, SIZE, SIZE, dtype=torch.bool),
}
MASKS["one whole"] = torch.cat([MASKS["half"][:1], MASKS["all"][:1]])


def model(steps: Sequence[Step], hooked: Sequence[Step] = ()) -> Model:
    torch.manual_seed(0)
    built = Model(steps, hooked).eval()
    with torch.no_grad():
        for norm in (built.first, built.norm):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
    return built


def answers(net: nn.Module, *given: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return net(*given)


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor], what: str) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape, (what, i, a.shape, b.shape)
        error = (a - b).abs().max() / b.abs().max().clamp_min(1e-3) if a.numel() else torch.zeros(())
        assert error <= 1e-5, f"{what}: value {i} is {error:.1e} off"


def judge(steps: Sequence[Step], hooked: Sequence[Step] = ()) -> None:
    net = model(steps, hooked)
    plain = answers(net, X)
    for name, visible in MASKS.items():
        dense = answers(LayerMasking(net, engine="dense"), X, visible)
        if name == "all":
            assert_close(dense, plain, "dense, all visible")
        removal = LayerMasking(net, engine="auto")
        assert_close(answers(removal, X, visible), dense, f"sparse, {name} visible")
        assert removal.engine_used == "sparse"


PHASES = (Phase.generate, Phase.shrink)
COMMON = {"deadline": None, "database": None, "phases": PHASES, "suppress_health_check": list(HealthCheck)}


@given(STEPS, HOOKED)
@settings(max_examples=250, derandomize=True, **COMMON)
def test_random_programs(steps: list[Step], hooked: list[Step]) -> None:
    judge(steps, hooked)


@pytest.mark.slow
@given(STEPS, HOOKED)
@settings(max_examples=5000, **COMMON)
def test_many_random_programs(steps: list[Step], hooked: list[Step]) -> None:
    judge(steps, hooked)


@pytest.mark.parametrize("write", WRITES)
def test_every_write_after_every_kind_of_read_and_view(write: str) -> None:
    """Through the value itself, behind a read, through a view, and through a view of a view."""
    judge([(write, 0)])
    judge([("max", 0), (write, 0), ("flat view", 0), (write, 2)])
    judge([("chunk", 0), (write, 1), ("clone", 0)], [(write, 0)])


def test_parts_are_copied_to_be_contiguous() -> None:
    """What is written to the whole value does not show in the copy, nor the other way round."""
    judge([("channels", 0), ("contiguous", 1)])
    judge([("view", 0), ("channels", 0), ("contiguous", 2), ("mul_", 3), ("clone", 0)])
    judge([("all channels", 0), ("contiguous", 1), ("mul_", 2), ("clone", 0)])


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_written_through(view: str) -> None:
    judge([(view, 0), ("mul_ by a tensor", 1), ("conv", 0)])
    judge([(view, 0), ("conv", 0), ("relu in place", 0), ("clone", 1)])
    judge([("channels last", 0), (view, 1), ("clamp_", 2), ("norm", 0), ("relu_", 0)], [("plain value", 0)])
