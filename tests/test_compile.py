"""Law 7: compiled, exported and traced equal eager, on a second input with another mask."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

from layermask import LayerMasking, Masked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own


class Convolutional(nn.Module):
    """TensorFlow's padding, depthwise, squeeze-and-excitation, residual, concatenation, pools, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12)
        self.depthwise, self.squeeze = nn.Conv2d(12, 12, 5, padding=2, groups=12), nn.Linear(12, 12)
        self.mix, self.group = nn.Conv2d(24, 12, (3, 1), padding="same", dilation=2), nn.GroupNorm(3, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))), inplace=True)
        y = self.depthwise(x)
        y = y * self.squeeze(y.mean((2, 3))).sigmoid()[..., None, None]
        y += x
        y = self.group(self.mix(torch.cat([x, y], 1)))
        y = F.max_pool2d(y, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Transformer(nn.Module):
    """Patches, class token, positions; attention as torch has it, as torch.nn has it, or written out."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.patches, self.kind = nn.Conv2d(3, 8, 4, 4), attention
        self.cls, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.mha, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def attend(self, x: Tensor) -> Tensor:
        if self.kind == "module":
            return self.mha(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q * 0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return out.transpose(1, 2).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attend(self.norm(x))
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class Windowed(nn.Module):
    """Shifted windows with a bias, patch merging by slices: Swin in small."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.bias = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(2, 16, 16))
        self.qkv, self.merge, self.head = nn.Linear(8, 24), nn.Linear(32, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(F.pad(x, (0, 0, 0, 0, 0, 0)), shifts=(-2, -2), dims=(1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, c)
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, shifts=(2, 2), dims=(1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).mean((1, 2)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": Convolutional,
    "fused attention": lambda: Transformer("fused"),
    "nn.MultiheadAttention": lambda: Transformer("module"),
    "written-out attention": lambda: Transformer("written out"),
    "windows": Windowed,
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def example(batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images, and masks of 4 x 4 patches, every other one fine-grained, one all hidden."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 4, 4, generator=generator) < 0.5
    visible = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    visible[::2] &= torch.rand(visible[::2].shape, generator=generator) < 0.7
    visible[-1] = False
    return torch.randn(batch, 3, 16, 16, generator=generator), visible


def pairs(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, visible: model(Masked(x, visible)).value


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same_on(examples: list[tuple[Tensor, Tensor]], ours: Callable, theirs: Callable) -> None:
    """Assert equal answers on every example, and that the masks change them."""
    with torch.no_grad():
        for x, visible in examples:
            assert torch.allclose(ours(x, visible), theirs(x, visible), atol=1e-5), f"batch of {len(x)}"
        assert not torch.allclose(ours(x, ~visible), ours(x, visible), atol=1e-3)


@pytest.mark.parametrize("name", ["convolutional", "windows"])
def test_compiled_pairs(name: str) -> None:
    model = made(name)
    compiled = torch.compile(pairs(model), fullgraph=True, backend="eager")
    assert_same_on([example(3, 0), example(3, 1)], compiled, pairs(model))


OPTIONS = [
    {"fill": "renormalize", "growth": "center", "join": "union"},
    {"compat": "release", "growth": "half"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_compiled_with_options(options: dict) -> None:
    removal = LayerMasking(made("convolutional"), **options)
    compiled = torch.compile(removal, fullgraph=True, backend="eager")
    assert_same_on([example(3, 0), example(3, 1)], compiled, removal)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_with_any_batch_size(name: str) -> None:
    removal, graphs = LayerMasking(made(name)), []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(removal, fullgraph=True, backend=backend)
    examples = [example(5, 0), example(4, 1), example(7, 2)]
    for x in examples[0]:
        torch._dynamo.mark_dynamic(x, 0)
    assert_same_on(examples, compiled, removal)
    assert len(graphs) == 1


def captured(removal: nn.Module, x: Tensor, visible: Tensor) -> list[torch.fx.GraphModule]:
    """The graphs of a compiled call, after common subexpressions have become one."""
    graphs = []

    def compiler(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch.compile(removal, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))(x, visible)
    return graphs


def opaque_in(graph: torch.fx.GraphModule) -> list[str]:
    text = [f"{node.target} {node.args}" for node in graph.graph.nodes]
    return [name for line in text for name in ("layermask.rings", "layermask.fill_") if name in line]


def test_a_compiled_fill_is_one_call_and_its_rings_are_found_once() -> None:
    """Two convolutions of one mask and reach; none where a gradient has to pass."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(12, 4, 5, padding=2)).eval()
    removal = LayerMasking(model, growth="center", engine="dense")
    with torch.no_grad():
        (graph,) = captured(removal, *example(3, 0))
    assert sorted(opaque_in(graph)) == ["layermask.fill_"] * 3 + ["layermask.rings"] * 2
    torch._dynamo.reset()
    (graph,) = captured(removal, *example(3, 0))
    assert sorted(opaque_in(graph)) == ["layermask.fill_", "layermask.rings"]  # of the images alone


@pytest.mark.parametrize("name", ["convolutional", "fused attention"])
def test_compiled_gradients(name: str) -> None:
    removal = LayerMasking(made(name))
    compiled, found = torch.compile(removal, fullgraph=True, backend="aot_eager"), []
    for way in (compiled, removal):
        removal.zero_grad()
        x, visible = example(3, 1)
        x.requires_grad_()
        way(x, visible).square().sum().backward()
        assert (x.grad[~visible.expand(x.shape)] == 0).all()
        found.append([x.grad, *(p.grad.clone() for p in removal.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="no compiler")
def test_compiled_to_machine_code() -> None:
    torch.manual_seed(0)
    layers = [
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 12, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    removal = LayerMasking(nn.Sequential(*layers).eval())
    compiled = torch.compile(removal, fullgraph=True, dynamic=True)
    assert_same_on([example(3, 0), example(3, 1), example(5, 2)], compiled, removal)


@pytest.mark.parametrize("name", MODELS)
def test_exported(name: str) -> None:
    """With a batch of any size, and without a trace of this library in the graph."""
    model = LayerMasking(made(name))
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(model, example(4, 0), dynamic_shapes=(batch, batch), strict=False)
    assert_same_on([example(3, 1), example(5, 2)], program.module(), model)
    assert {node.op for node in program.graph.nodes} <= {"placeholder", "call_function", "get_attr", "output"}


@pytest.mark.parametrize("name", MODELS)
def test_traced_with_make_fx(name: str) -> None:
    """The mask is an input of the graph, not a constant in it."""
    model = made(name)
    with torch.no_grad():
        graph = make_fx(pairs(model))(*example(3, 0))
    assert_same_on([example(3, 1), example(3, 2)], graph, pairs(model))


@pytest.mark.parametrize("name", MODELS)
def test_functional_gradients(name: str) -> None:
    """torch.func: the Jacobian's rows of hidden pixels are zero, and equal autograd's."""
    removal, (x, visible) = LayerMasking(made(name)), example(3, 1)
    ours = torch.func.grad(lambda x: removal(x, visible).square().sum())(x)
    x.requires_grad_()
    removal(x, visible).square().sum().backward()
    assert torch.allclose(ours, x.grad, atol=1e-5)
    assert (ours[~visible.expand(x.shape)] == 0).all()
