"""What `layermask._private_torch` uses of torch behaves as it is used; it is used nowhere else."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import layermask
from layermask import _private_torch as private
from layermask.core.forward_pass import ForwardPass
from layermask.core.mask import cached

ROOT = Path(layermask.__file__).parent


def test_same_storage_is_seen_through_views() -> None:
    x = torch.zeros(4, 4)
    assert all(private.same_storage(x, y) for y in (x, x[1:], x.t(), x.view(16), x.detach(), x.data))
    assert not any(private.same_storage(x, y) for y in (x.clone(), torch.zeros(4, 4), torch.empty(0)))
    assert not private.same_storage(torch.empty(0), torch.empty(0))
    seen = []
    torch.func.vmap(lambda y: seen.append(private.same_storage(y, y.clone())) or y)(x)
    assert seen == [True]  # it cannot be told there


def test_writes_are_counted() -> None:
    x = torch.zeros(3)
    before = private.writes_so_far(x)
    x + 1
    assert private.writes_so_far(x) == before
    x[1:].add_(1)
    assert private.writes_so_far(x) == before + 1
    x.numpy()[0] = 1
    x.data.zero_()
    assert private.writes_so_far(x) == before + 1, "these leave no trace: no memo may rest on the count"
    with torch.inference_mode():
        assert private.writes_so_far(torch.zeros(3).add_(1)) == 0


def test_operators_have_the_name_they_are_called_by() -> None:
    assert private.operator_name(torch.ops.aten.relu) == "aten.relu"
    assert private.operator_name(torch.relu) == ""


def test_assertions_and_functions_of_lists_are_called() -> None:
    with pytest.raises(AssertionError, match="wrong"):
        private.ASSERT(False, "wrong")
    assert private.called_for_lists("atleast_2d")([torch.zeros(3)])[0].shape == (1, 3)


def test_fake_tensors_are_told_from_others() -> None:
    with FakeTensorMode():
        fake = torch.zeros(3, device="cuda")
    assert private.is_fake(fake) and not private.is_fake(torch.zeros(3))


def test_what_is_made_as_a_constant_is_no_part_of_a_graph() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert private.is_exporting(x)
            with private.as_constants():
                constant = torch.rand(3, generator=torch.Generator().manual_seed(0))
            return x * constant

    program = torch.export.export(Model(), (torch.ones(3),), strict=False)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(program.module()(torch.ones(3)), expected) for _ in range(2))
    assert not [node for node in program.graph.nodes if "rand" in str(node.target)]
    assert not private.is_exporting(expected)


def test_results_of_operators_are_seen() -> None:
    seen = []
    with private.ResultsSeen(lambda x: seen.append(x.dtype)):
        torch.zeros(3, dtype=torch.float64).float().max(0)
    assert seen == [torch.float64, torch.float32, torch.float32, torch.int64]


def test_modes_and_transforms_are_seen() -> None:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    assert not private.modes_are_active()
    with Mode():
        assert private.modes_are_active()
    seen: list[bool] = []
    for transform in (torch.func.vmap, torch.func.grad, torch.func.functionalize):
        transform(lambda x: seen.append(private.modes_are_active()) or x.sum())(torch.zeros(2))
    assert seen == [True] * 3 and not private.modes_are_active()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
def test_tracing_is_seen() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(private.is_tracing())
            return x + 1

    seen: list[bool] = []
    Model()(torch.zeros(2))
    torch.jit.trace(Model(), torch.zeros(2), check_trace=False)
    assert seen == [False, True] and not private.is_tracing()


def test_forward_derivatives_are_seen() -> None:
    assert not private.takes_forward_derivatives()
    with torch.autograd.forward_ad.dual_level():
        assert private.takes_forward_derivatives()
    assert not private.takes_forward_derivatives()


def test_operators_tell_what_they_write_and_view() -> None:
    aten = torch.ops.aten
    assert private.written_arguments(aten.add_.Tensor)[:2] == [("self", True), ("other", False)]
    assert not any(written for _, written in private.written_arguments(aten.add.Tensor))
    assert private.returns_views(aten.view.default) and private.returns_views(aten.add_.Tensor)
    assert not private.returns_views(aten.add.Tensor)
    assert isinstance(aten.add.Tensor, private.OpOverload)


def test_trees_are_those_that_libraries_register() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    found = outputs.ImageClassifierOutput(logits=torch.ones(2), hidden_states=(torch.ones(3),))
    doubled = private.tree_map(lambda x: x * 2, {"a": [found]}, is_leaf=lambda x: False)
    assert type(doubled["a"][0]) is type(found) and doubled["a"][0].logits.sum() == 4
    assert [len(x) for x in private.tree_leaves(doubled)] == [2, 3]
    assert private.tree_map(len, [(1, 2), (3,)], is_leaf=lambda x: isinstance(x, tuple)) == [2, 1]


def test_identities_are_kept_with_their_objects() -> None:
    made, calls = private.MadeFor(), []
    for _ in range(100):  # each the only object at its address, if those before were gone
        made.get((object(),), "a", lambda: calls.append(1))
    assert len(calls) == len(made) == 100
    one = object()
    assert made.get((one,), "a", object) is made.get((one,), "a", object)
    assert made.get((one,), "b", object) is not made.get((one,), "a", object)


def test_the_memo_of_a_pass_keeps_the_masks_that_it_goes_by() -> None:
    run, mask = ForwardPass(), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    kept = weakref.ref(mask)
    cached(run, "test", (mask,), None, lambda: "found")
    del mask
    assert kept() is not None
    run.memo.clear()
    assert kept() is None


def _files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.py")):
        if path.name != "_private_torch.py":
            yield path


PRIVATE = {"_C", "_version", "_cdata", "_pytree", "_current_level", "_ops", "_schema", "_dynamo", "_inductor"}


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            yield f"line {node.lineno}: .{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            if names[0] == "torch" and any(name.startswith("_") for name in names):
                yield f"line {node.lineno}: import of {'.'.join(names)}"
        if isinstance(node, ast.Name) and node.id == "id" and isinstance(node.ctx, ast.Load):
            yield f"line {node.lineno}: id"


def test_no_other_file_uses_private_parts_of_torch_or_identities() -> None:
    found = {str(path.relative_to(ROOT)): list(_used(ast.parse(path.read_text()))) for path in _files()}
    assert {name: uses for name, uses in found.items() if uses} == {}
    assert list(_used(ast.parse("import torch\nfrom torch._ops import A\ntorch._C.f(id(x))")))  # it can fail


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_that_wait_for_gradients_are_seen(register: str) -> None:
    module = nn.Linear(1, 1)
    module.register_forward_hook(lambda *_: None)
    assert not private.has_backward_hooks(module)
    handle = getattr(module, register)(lambda *_: None)
    assert private.has_backward_hooks(module)
    handle.remove()
    assert not private.has_backward_hooks(module)


def test_buffers_are_those_of_the_module_alone() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2))
    assert private.buffers_of(module) == {}
    private.buffers_of(module[0])["running_mean"] = torch.ones(2)
    assert module[0].running_mean.tolist() == [1, 1]
