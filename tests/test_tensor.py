"""A masked value is a torch.Tensor: to models, hooks and libraries that ask, and to the code below them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from layermask import LayerMasking, Masked
from layermask.core.masked import is_plain
from layermask.errors import LostMask, NoMaskRule
from layermask.removal import Greyout

torch.manual_seed(0)
X = torch.randn(2, 3, 12, 12)
M = (torch.rand(2, 1, 3, 3) > 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3)
ENGINES = ("dense", "sparse")


class Way(nn.Module):
    """`body(feature maps)` between convolutions."""

    def __init__(self, body: Callable) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.first = body, nn.Conv2d(3, 8, 3, padding=1)
        self.rest = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.body(self.first(x))).mean((2, 3))


def laws(model: nn.Module) -> None:
    """All visible is the plain model; hidden NaN changes nothing; both engines agree."""
    model = model.eval()
    with torch.no_grad():
        plain = model(X)
        answers = []
        for engine in ENGINES:
            removal = LayerMasking(model, engine=engine)
            assert torch.allclose(removal(X, torch.ones_like(M)), plain, atol=1e-5), f"law 1, {engine}"
            answers.append(removal(X, M))
            assert torch.equal(removal(torch.where(M, X, torch.nan), M), answers[-1]), f"law 2, {engine}"
            assert removal(X, M & False).isfinite().all()
        assert torch.allclose(*answers, atol=1e-5)
        assert not torch.allclose(answers[0], plain, atol=1e-3), "the mask had no part in it"


def normalised(y: Any) -> Any:
    if not isinstance(y, Tensor):
        return y
    return (y - 0.5) / 0.25


def written(y: Tensor) -> Tensor:
    out = y.new_zeros(y.shape)
    out[:, 1:] = y[:, :-1]
    return out


def kept(make: Callable) -> Callable:
    def body(y: Tensor) -> Tensor:
        out = make(y)
        same = out
        out.copy_(y)
        return same * 2

    return body


def into(y: Tensor) -> Tensor:
    out = torch.empty_like(y)
    assert torch.mul(y, 2, out=out) is out
    return out


def clipped(y: Tensor) -> Tensor:
    y[y < 0] = 0
    y[y > 1] = torch.tensor([0.5], dtype=torch.float64)
    return y


def numbered(y: Tensor) -> Tensor:
    """No index is plain where its cell is hidden."""
    book = torch.linspace(-1, 1, 64).view(8, 8)
    places = y.argmax(1)
    rows = [book[places], F.embedding(places, book), F.one_hot(places, 8).float() @ book, book[y.max(1)[1]]]
    rows += [book[y.topk(2, 1)[1][:, 0]], y.gather(1, places[:, None]).movedim(1, -1)]
    return torch.stack([row.expand(*places.shape, 8) for row in rows], 1).mean(1).movedim(-1, 1)


BODIES: dict[str, Callable] = {
    "isinstance": normalised,
    "is_tensor": lambda y: y * 3 if torch.is_tensor(y) else y,
    "tree_map": lambda y: tree_map(normalised, {"y": [y]})["y"][0],
    "tree_map_only": lambda y: tree_map_only(Tensor, lambda t: t * 3, (y,))[0],
    "torch.overrides": lambda y: y * 3 if torch.overrides.is_tensor_like(y) else y,
    "iteration": lambda y: torch.stack([row * 2 for row in y]),
    "zip": lambda y: torch.stack([a + b for a, b in zip(y, y, strict=True)]),
    "enumerate": lambda y: torch.stack([row * (i + 1) for i, row in enumerate(y)]),
    "unpacking": lambda y: torch.stack(next((a, b) for a, b in [y])),
    "reversed": lambda y: torch.stack([*y][::-1]),
    "array": lambda y: y * np.full((1, 8, 1, 1), 2, np.float32),
    "plain / masked": lambda y: torch.full((8, 1, 1), 2.0) / (y.abs() + 1),
    "writes into new_zeros": written,
    "copy_ into zeros_like": kept(torch.zeros_like),
    "copy_ into empty_like": kept(torch.empty_like),
    "copy_ into new_full": kept(lambda y: y.new_full(y.shape, 3.0)),
    "out=": into,
    "out=None": lambda y: F.normalize(y, out=None),
    "where": clipped,
    "places": numbered,
    "aten": lambda y: torch.ops.aten.leaky_relu_(torch.ops.aten.add.Tensor(y, y, alpha=2), 0.2),
    "torch.batch_norm": lambda y: torch.batch_norm(
        y, *[torch.linspace(1, 2, 8) + i for i in range(4)], False, 0.1, 1e-5, True
    ),
    "torch.instance_norm": lambda y: torch.instance_norm(
        y, torch.linspace(1, 2, 8), torch.ones(8), torch.zeros(8), torch.ones(8), False, 0.1, 1e-5, True
    ),
    "compiled part": lambda y: torch.compile(torch.tanh, backend="eager")(y),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BODIES)
def test_models_take_no_other_branch(name: str) -> None:
    laws(Way(BODIES[name]))


def test_einops_functions_take_it_for_a_tensor() -> None:
    einops = pytest.importorskip("einops")

    def body(y: Tensor) -> Tensor:
        tokens = einops.rearrange(y, "b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)
        return einops.rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", p=4, q=4, h=3) * 2

    laws(Way(body))


def test_as_einops_calls_a_tensor() -> None:
    """What its backend does: find the one for the class, then shape, reshape, permute, reduce."""

    def body(y: Tensor) -> Tensor:
        assert isinstance(y, Tensor)
        n, c, h, w = y.shape
        tokens = y.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16 * c)
        tokens = tokens * 2
        return tokens.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(y.shape)

    laws(Way(body))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_transforms_within_a_model(version: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    if version == "v2":
        pytest.importorskip("torchvision.transforms.v2")
    space = torchvision.transforms if version == "v1" else torchvision.transforms.v2
    normalise = space.Normalize([0.4] * 3, [0.2] * 3)
    laws(nn.Sequential(normalise, nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_hooks_that_ask() -> None:
    model = Way(torch.relu)
    model.first.register_forward_hook(lambda module, args, out: normalised(out))
    laws(model)


def test_only_one_thing_tells_masked_from_plain() -> None:
    x = Masked(X, M)
    assert isinstance(x, Tensor) and isinstance(x, Masked) and not is_plain(x)
    assert is_plain(X) and is_plain(nn.Parameter(X)) and not is_plain(1)
    assert not isinstance(x, nn.Parameter) and all(leaf is x for leaf in tree_leaves([x]))
    with pytest.raises(TypeError, match="not MaskedTensor and Tensor"):
        Masked(x, M)
    with pytest.raises(TypeError, match=r"images must be a plain torch.Tensor, not Masked"):
        LayerMasking(nn.ReLU())(x, M)


def test_attributes_that_it_has_not_are_absent() -> None:
    x = Masked(X, M)
    assert not hasattr(x, "_base") and not hasattr(x, "grad") and getattr(x, "name", None) is None
    assert x.is_sparse is False and x.is_mkldnn is False


BELOW: dict[str, str] = {
    "torch.tensor": "torch.tensor(y)",
    "torch.tensor of a list": "torch.tensor([y, y])",
    "torch.Tensor": "torch.Tensor(y)",
    "new_tensor": "x.new_tensor([y])",
    "vmap": "torch.vmap(torch.relu)(y)",
    "vmap along another axis": "torch.vmap(torch.relu, in_dims=2)(y)",
    "grad": "torch.func.grad(lambda t: t.sum())(y)",
    "a script": "torch.jit.script(nn.Conv2d(3, 3, 1))(y)",
    "a trace": "torch.jit.trace(nn.Conv2d(3, 3, 1), x)(y)",
    "a trace begins": "torch.jit.trace(torch.relu, y)",
    "no torch function": "relu_without_torch_function(y)",
    "set_": "x.set_(y)",
    "dlpack": "torch.from_dlpack(y)",
    "as a subclass": "torch.Tensor._make_subclass(torch.Tensor, y)",
    "nested": "torch.nested.nested_tensor([y, y])",
    "quantised": "torch.quantize_per_tensor(y, 0.1, 0, torch.qint8)",
    "a scalar": "torch.full((2,), y.mean())",
    "a size": "torch.zeros(2, y.mean().long())",
    "an index of a plain tensor": "x[y > 0]",
    "an index": "y[y > 0]",
    "two values where": "y.__setitem__(y > 0, x[x > 0])",
    "gradient": "torch.autograd.backward(y)",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BELOW)
def test_code_below_is_refused_and_reads_no_memory(name: str) -> None:
    """In a process of its own: what takes a Python object for a tensor and is wrong reads anywhere."""
    program = f"""
        import torch, warnings
        warnings.simplefilter("ignore")
        from torch import nn
        from layermask import Masked
        from layermask.errors import NoMaskRule

        def relu_without_torch_function(y):
            with torch._C.DisableTorchFunctionSubclass():
                return torch.relu(y)

        x = torch.randn(2, 3, 4, 4)
        y = Masked(x, x[:, :1] > 0)
        try:
            print("no error", {BELOW[name]})
        except (NoMaskRule, TypeError) as error:
            print("refused", error)
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    out = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0 and out.stdout.startswith("refused"), out.stdout + out.stderr[-500:]


@pytest.mark.filterwarnings("ignore")
def test_scripted_traced_and_quantised_models_are_refused_in_one_sentence() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    traced = torch.jit.trace(nn.Conv2d(3, 4, 3), X)
    tail = torch.jit.trace(lambda t: t.relu() + 1, X)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(432, 4))
    quantised = torch.ao.quantization.quantize_dynamic(linear, {nn.Linear})
    for model in (scripted, traced, Way(tail), nn.Sequential(nn.ReLU(), scripted), quantised):
        with pytest.raises(NoMaskRule, match=r"give the nn.Module that they were made of, or use a removal"):
            LayerMasking(model)(X, M)
        Greyout(model, [0.5] * 3, [0.2] * 3)(X, M)


def test_advice_for_checkpoints() -> None:
    def checkpointed(y: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(torch.tanh, y, use_reentrant=True)

    with pytest.raises(NoMaskRule, match=r"CheckpointFunction.apply .* use_reentrant=False"):
        LayerMasking(Way(checkpointed))(X.clone().requires_grad_(), M)


# --- tensors made in the likeness of a masked one ----------------------------------------------------------


def test_what_becomes_masked_stays_in_dicts_and_sets() -> None:
    def body(y: Tensor) -> Tensor:
        made = y.new_zeros(y.shape)
        known, several = {made: 1}, {made}
        made[:] = y
        assert isinstance(made, Masked) and known[made] == 1 and made in several
        return made

    LayerMasking(Way(body), engine="dense")(X, M)


@pytest.mark.parametrize("typed", [False, True])
def test_what_somebody_keeps_the_memory_of_stays_plain(typed: bool) -> None:
    def body(y: Tensor, keep: bool) -> Tensor:
        made = y.new_zeros(y.shape)
        kept: Any = made.untyped_storage() if keep else None
        kept = (
            torch.TypedStorage(wrap_storage=kept, dtype=y.dtype, _internal=True) if keep and typed else kept
        )
        made[:] = y
        return made

    with pytest.raises(LostMask):
        LayerMasking(Way(lambda y: body(y, True)), engine="dense")(X, M)
    LayerMasking(Way(lambda y: body(y, False)), engine="dense")(X, M)


@pytest.mark.parametrize(
    "name", ["data_ptr", "untyped_storage", "storage", "as_strided", "set_", "is_shared", "resize_"]
)
def test_memory_is_not_given_away(name: str) -> None:
    arguments: tuple = {"as_strided": ((2,), (1,)), "set_": (torch.zeros(2),), "resize_": (2,)}.get(name, ())
    with pytest.raises(NoMaskRule, match=r"takes numbers or memory out of a masked value.*\.value"):
        LayerMasking(Way(lambda y: getattr(y, name)(*arguments)), engine="dense")(X, M)


def test_what_is_made_in_the_likeness_stays_plain_until_it_is_written_to() -> None:
    seen = []

    def body(y: Tensor) -> Tensor:
        for made in (torch.zeros_like(y), y.new_ones(2, 2), y.new_empty(y.shape)):
            assert type(made) is Tensor
            made.fill_(1.0)
            made[0] = 2.0
            assert type(made) is Tensor
        out = torch.zeros_like(y)
        out[:, :, 2:] = y[:, :, 2:]
        seen.extend((out, y))
        return out

    with torch.no_grad():
        LayerMasking(Way(body), engine="dense")(X, M)
    out, y = seen
    visible = out.visible.expand(out.shape)
    assert isinstance(out, Masked) and visible[:, :, :2].all() and not visible.all()
    assert torch.equal(visible[:, :, 2:], y.visible.expand(y.shape)[:, :, 2:])


def refused(y: Tensor, name: str) -> None:
    plain = torch.zeros(y.shape)
    if name == "plain":
        plain[:] = y
    elif name == "plain, out=":
        torch.mul(y, 2, out=plain)
    elif name == "a view":
        torch.zeros_like(y)[:, 1:].copy_(y[:, 1:])
    elif name == "something views it":
        out = torch.zeros_like(y)
        flat = out.view(-1)
        out[:] = y
        del flat
    elif name == "of a plain one":
        plain.new_zeros(y.shape).copy_(y)


@pytest.mark.parametrize("name", ["plain", "plain, out=", "a view", "something views it", "of a plain one"])
def test_other_plain_tensors_are_not_written_to(name: str) -> None:
    with pytest.raises(LostMask, match=r"at test_tensor.py:\d+ would write .* x.new_zeros"):
        LayerMasking(Way(lambda y: refused(y, name)), engine="dense")(X, M)


class OfTransformers(nn.Module):
    """As a library writes it, whose code its users cannot change."""

    __module__ = "transformers.models.some"

    def forward(self, y: Tensor) -> Tensor:
        made = torch.full(y.shape, 7.0)
        made[..., 2:] = y[..., 2:]
        return made


def test_what_a_module_of_transformers_makes_may_be_written_to() -> None:
    removal = LayerMasking(nn.Sequential(OfTransformers()), engine="dense")
    expected = torch.where(M, X, 0.0)
    expected[..., :2] = 7.0
    assert torch.equal(removal(X, M), expected) and torch.equal(removal(X, M | True), removal.model(X))
    assert type(torch.zeros(2)) is Tensor
    with pytest.raises(LostMask):
        LayerMasking(nn.Sequential(nn.ReLU(), Way(lambda y: refused(y, "plain"))), engine="dense")(X, M)


def test_a_masked_number_to_fill_with_is_refused() -> None:
    with pytest.raises(NoMaskRule, match=r"new_full .* Only its first argument may be masked"):
        LayerMasking(Way(lambda y: y.new_full((2, 2), y.mean())))(X, M)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "full": lambda n: torch.full((2, 2), n),
    "full_like": lambda n: torch.full_like(X, n),
    "new_full": lambda n: X.new_full((2,), fill_value=n),
    "arange": lambda n: torch.arange(0, n, 2),
    "pad": lambda n: F.pad(X, (1, 1), value=n),
    "normal": lambda n: torch.normal(n, 1.0, (2,)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_masked_number_where_torch_takes_numbers_is_refused(name: str) -> None:
    words = rf"{name} has no rule .* at test_tensor.py:\d+\. It takes numbers.* torch.ones\(\.\.\.\) \* x"
    with pytest.raises(NoMaskRule, match=words) as refusal:
        LayerMasking(nn.Sequential(Way(lambda y: NUMBERS[name](y.mean()))))(X, M)
    assert refusal.value.module == "0"


def test_errors_of_the_models_own_stay() -> None:
    with pytest.raises(TypeError, match=r"^unsupported operand") as error:
        LayerMasking(Way(lambda y: {} + y))(X, M)  # type: ignore[operator]  # the error is what is tested
    assert type(error.value) is TypeError


WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "index_add": lambda y, at: y.index_add(0, at, torch.ones(2, 3)),
    "index_put": lambda y, at: torch.index_put(y, (at,), torch.tensor(1.0)),
    "scatter": lambda y, at: y.scatter(0, at[:, None], 1.0),
    "__setitem__": lambda y, at: y.new_zeros(y.shape).__setitem__(at, 1.0),
    "index_fill": lambda y, at: Masked(y, torch.ones(1, 1).bool()).index_fill(0, at, 1.0),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_where_a_masked_index_says_are_refused(name: str) -> None:
    at = Masked(torch.tensor([0, 2]), torch.tensor([True, False]))
    with pytest.raises(NoMaskRule, match=rf"{name}.* at test_tensor.py:\d+.*(masked index|one_hot)"):
        WRITES[name](torch.zeros(5, 3), at)


def test_gradients_flow_through_what_is_written() -> None:
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    LayerMasking(Way(written), engine="dense")(x, M).sum().backward()
    LayerMasking(Way(lambda y: F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))), engine="dense")(y, M).sum().backward()
    assert (x.grad[~M.expand(X.shape)] == 0).all()
    assert x.grad.abs().sum() > 0


# --- exported programs -------------------------------------------------------------------------------------


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.batch, self.group, self.layer = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.batch.running_mean.normal_()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.group(self.up(F.max_pool2d(self.batch(self.conv(x)).relu_(), 2)))
        y = F.hardswish(F.hardtanh(F.gelu(y)), inplace=True) + y[:, :, ::2, 1:].mean((2, 3), keepdim=True)
        t = self.layer(y.flatten(2).transpose(1, 2))
        t = torch.cat([F.leaky_relu(F.scaled_dot_product_attention(t, t, t), 0.1), t], 1)
        return self.head(t.mean(1)), t.split(5, -1)[0].softmax(-1).amax((1, 2)).clamp(-1, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("core", [False, True], ids=["as exported", "core operators"])
def test_exported_programs_answer_as_the_module(core: bool, engine: str) -> None:
    model = Exported().eval()
    program = torch.export.export(model, (X,))
    program = program.run_decompositions() if core else program
    with torch.no_grad():
        ours, theirs = (LayerMasking(m, engine=engine)(X, M) for m in (program.module(), model))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class Running(nn.Module):
    """Keeps a running mean in a buffer, by assignment or through `.data`."""

    def __init__(self, through_data: bool) -> None:
        super().__init__()
        self.conv, self.through_data = nn.Conv2d(3, 4, 1), through_data
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        new = 0.9 * self.mean + 0.1 * y.mean((0, 2, 3)).detach()
        if self.through_data:
            self.mean.data = new
        else:
            self.mean = new
        return y.mean((2, 3)) - self.mean


def test_a_buffer_is_left_plain() -> None:
    model, x = Running(False).eval(), torch.rand(1, 3, 8, 8)
    visible = torch.arange(8).expand(1, 1, 8, 8) < 4
    LayerMasking(model)(x, visible)
    assert type(model.mean) is Tensor and model.mean.any()
    assert type(model(x)) is Tensor and type(model.state_dict()["mean"]) is Tensor


def test_memory_is_not_given_away_through_data() -> None:
    """Torch's own error: a masked value has no memory that a plain tensor could take."""
    model, x = Running(True).eval(), torch.rand(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match="incompatible tensor type"):
        LayerMasking(model)(x, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    assert model.mean.shape == (4,)
