"""Rules are in force where they were opened and nowhere else; users' rules are called as models call them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import layermask as lm
from layermask import LayerMasking, Masked, NoMaskRule, overriding, rule
from layermask.core import RULES

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5


def pair() -> Masked:
    return Masked(X.clone(), M)


def says(word: str) -> Any:
    return overriding({torch.relu: lambda x: word})


def said() -> Any:
    found = torch.relu(pair())
    return found if isinstance(found, str) else "torch"


def test_other_threads_do_not_see_it() -> None:
    with says("mine"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(said).result() == "torch"
        assert len(RULES) > 700 and torch.relu in RULES  # nor was the table ever empty
        assert said() == "mine"


def test_blocks_of_many_threads_at_once() -> None:
    barrier, wrong = threading.Barrier(4), []

    def work(word: str) -> None:
        for _ in range(50):
            barrier.wait()
            with says(word):
                barrier.wait()
                wrong.append(said() != word)
            wrong.append(said() != "torch")

    threads = [threading.Thread(target=work, args=(f"thread {i}",)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(wrong) == 400 and not any(wrong)


def test_tasks_of_one_loop() -> None:
    async def work(word: str) -> list[str]:
        found = []
        for _ in range(5):
            with says(word):
                await asyncio.sleep(0)
                found.append(said())
            await asyncio.sleep(0)
            found.append(said())
        return found

    async def all_at_once() -> list[list[str]]:
        return await asyncio.gather(*(work(f"task {i}") for i in range(3)))

    for i, found in enumerate(asyncio.run(all_at_once())):
        assert found == [f"task {i}", "torch"] * 5


@pytest.mark.parametrize("first", [0, 1])
def test_interleaved_blocks(first: int) -> None:
    blocks = [says("outer"), says("inner")]
    [block.__enter__() for block in blocks]
    assert said() == "inner"
    blocks[first].__exit__(None, None, None)
    assert said() == ("inner", "outer")[first]
    blocks[1 - first].__exit__(None, None, None)
    assert said() == "torch"


def test_generators_that_stop_within_a_block() -> None:
    def work(word: str) -> Iterator[str]:
        with says(word):
            yield said()
            yield said()

    one, other = work("one"), work("other")
    assert (next(one), next(other)) == ("one", "other")
    one.close()
    assert said() == "other"
    other.close()
    assert said() == "torch"


def test_a_block_that_is_left_in_another_context() -> None:
    """As asynchronous fixtures do it."""
    block = says("mine")
    block.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(block.__exit__, None, None, None).result()
    assert said() == "torch"
    with overriding({}):
        assert said() == "torch"


class InThreads(nn.Module):
    """Calls from a thread of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.relu, x).result()


def doubled(input: Masked) -> Masked:
    return Masked(input.value * 2, input.visible)


def test_a_pass_takes_it_into_its_threads() -> None:
    removal = LayerMasking(InThreads())
    with overriding({torch.relu: doubled}):
        assert torch.equal(removal(X, M), torch.where(M, X * 2, 0))
    assert torch.equal(removal(X, M), torch.where(M, X.relu(), 0))


class Recomputed(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return checkpoint(torch.relu, x, use_reentrant=False)


def test_what_is_recomputed_for_a_gradient_has_the_rules_of_its_pass() -> None:
    x = X.clone().requires_grad_()
    with overriding({torch.relu: lambda input: Masked((input.value * 3).sin(), input.visible)}):
        out = LayerMasking(Recomputed())(x, M)
    out.sum().backward()
    assert torch.allclose(x.grad, torch.where(M, 3 * (3 * X).cos(), 0))


def test_a_model_may_open_a_block_by_itself() -> None:
    class Opening(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with overriding({torch.relu: doubled}):
                return torch.relu(x)

    with overriding({torch.relu: lambda x: "outer"}):
        assert torch.equal(LayerMasking(Opening())(X, M), torch.where(M, X * 2, 0))


def test_a_models_own_rule_comes_first() -> None:
    removal = LayerMasking(nn.Sequential(nn.ReLU()), rules={F.relu: lambda x, inplace: doubled(x)})
    with overriding({F.relu: lambda x, inplace: "outer"}):
        assert torch.equal(removal(X, M), torch.where(M, X * 2, 0))


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_every_engine_obeys(engine: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1)]
    removal = LayerMasking(nn.Sequential(*layers).eval(), engine=engine)
    with torch.no_grad():
        before = removal(X, M)
        with overriding({F.relu: lambda x, inplace: doubled(x)}):
            inside = removal(X, M)
        after = removal(X, M)
    assert torch.equal(before, after)
    theirs = LayerMasking(nn.Sequential(layers[0], Doubling(), *layers[2:]))
    assert torch.allclose(inside, theirs(X, M), atol=1e-5)


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
def test_compiled_models_follow() -> None:
    removal = LayerMasking(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval())
    compiled = torch.compile(removal, fullgraph=True, backend="eager")
    mine = {F.relu: lambda x, inplace: doubled(x)}
    with torch.no_grad():
        before = compiled(X, M)
        with overriding(mine):
            assert torch.allclose(compiled(X, M), removal(X, M))
            assert not torch.allclose(compiled(X, M), before)
            with ThreadPoolExecutor(1) as pool:
                assert torch.equal(pool.submit(torch.no_grad()(compiled), X, M).result(), before)
        assert torch.equal(compiled(X, M), before)


# --- what users' rules are called with ---------------------------------------------------------------------


@contextlib.contextmanager
def registered(function: Callable, body: Callable) -> Iterator[None]:
    rule(function)(body)
    try:
        yield
    finally:
        del RULES[function]


WAYS: dict[str, Callable[[Callable], Any]] = {
    "overriding": lambda body: overriding({torch.mode: body, torch.mean: body}),
    "rule": lambda body: registered(torch.mode, body),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [("dim", "keepdim"), ("axis", "keepdims")])
def test_a_users_rule_gets_the_names_that_the_model_wrote(way: str, names: tuple[str, str]) -> None:
    seen: list[dict] = []

    def body(input: Masked, **options: Any) -> Masked:
        seen.append(options)
        return input

    with WAYS[way](body):
        torch.mode(pair(), **dict(zip(names, (1, True), strict=True)))
    assert seen == [dict(zip(names, (1, True), strict=True))]


def test_a_rule_of_one_model_gets_them_too_and_ours_gets_torchs() -> None:
    seen: list[dict] = []

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.mean(x, axis=1, keepdims=True)

    def body(input: Masked, **options: Any) -> Masked:
        seen.append(options)
        return input

    LayerMasking(Mean(), rules={torch.mean: body})(X, M)
    assert seen == [{"axis": 1, "keepdims": True}]
    assert torch.equal(LayerMasking(Mean())(X, M), torch.where(M, X.mean(1, True), 0))


def spelt(annotation: Any) -> Callable:
    def body(first, second):
        return "called", type(first), type(second)

    body.__annotations__ = {"first": annotation, "second": annotation}
    return body


SPELT = ["Masked", "lm.Masked", "Masked | Tensor", Masked, Any, "Unknown[Thing]"]


@pytest.mark.parametrize("annotation", SPELT)
@pytest.mark.parametrize("masked_first", [True, False])
def test_how_a_users_rule_is_annotated_changes_nothing(annotation: Any, masked_first: bool) -> None:
    arguments = (pair(), X) if masked_first else (X, pair())
    with overriding({torch.heaviside: spelt(annotation)}):
        assert torch.heaviside(*arguments) == ("called", *map(type, arguments))
    with registered(torch.kron, spelt(annotation)):
        assert torch.kron(*arguments) == ("called", *map(type, arguments))


OTHERS: dict[str, Callable] = {
    "by place": lambda x: torch.index_select(X, 0, x),
    "by name": lambda x: torch.index_select(input=X, dim=0, index=x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_our_rules_refuse_a_plain_first_argument(name: str) -> None:
    index = Masked(torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
    with pytest.raises(NoMaskRule, match="Its first argument is plain, and only that one may be masked"):
        OTHERS[name](index)


@pytest.mark.parametrize("name", OTHERS)
def test_a_users_rule_takes_a_plain_first_argument_where_ours_does_not(name: str) -> None:
    index = Masked(torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
    with overriding({torch.index_select: lambda *a, **k: "mine"}):
        assert OTHERS[name](index) == "mine"


def test_ours_are_there_before_a_user_adds_one() -> None:
    """A second rule is an error, in a program that has imported nothing else."""
    import subprocess
    import sys

    program = "import torch; from layermask import rule; rule(torch.relu)(lambda x: x)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ValueError: torch.relu has a rule already" in found.stderr
    assert lm.core.RULES is RULES
