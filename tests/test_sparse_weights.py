"""Weights of a model that are changed, in any way, are followed by the sparse engine."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from layermask import LayerMasking

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
VISIBLE = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(1)) > 0.4


class Net(nn.Module):
    """Convolutions of each kind the engine prepares weights for: folded norms, depthwise, groups, scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.groups = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.point, self.last = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.layer_norm = nn.LayerNorm(16)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.groups(F.relu(self.depthwise(self.conv(x))))
        x = self.scale[:, None, None] * F.relu(self.last(self.point(x)))
        return self.head(self.layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def all_tensors(model: nn.Module) -> list[Tensor]:
    return [x for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()]


def by_numpy(model: nn.Module) -> None:
    for x in all_tensors(model):
        x.detach().numpy()[...] *= 1.3


def one_entry(model: Net) -> None:
    model.conv.weight.data[3, 4, 1, 1] += 1


def signs(model: Net) -> None:
    model.conv.weight.data.neg_()


def averaged(model: nn.Module) -> None:
    for x, y in zip(all_tensors(model), all_tensors(copy.deepcopy(model)), strict=True):
        x.data.mul_(0.9).add_(y.data, alpha=0.5)


def twice(model: Net) -> None:
    """The allocator may give the first memory out again."""
    model.conv.weight.data = torch.randn_like(model.conv.weight)
    model.conv.weight.data = torch.randn_like(model.conv.weight)


def optimized(model: Net) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.enable_grad():
        model(X).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def in_inference_mode(model: Net) -> None:
    with torch.inference_mode():
        model.point.weight.data.mul_(2)


def swapped(model: Net) -> None:
    model.last.running_mean, model.last.running_var = torch.rand(16), torch.rand(16) + 0.5


def transposed(model: Net) -> None:
    """The same memory, read in another order."""
    model.point.weight.data = model.point.weight.data.transpose(0, 1)


WAYS: dict[str, Callable[[Net], object]] = {
    "data.mul_": lambda m: [x.data.mul_(1.3) for x in all_tensors(m)],
    "numpy": by_numpy,
    "one entry": one_entry,
    "signs": signs,
    "moving average": averaged,
    "data assigned twice": twice,
    "optimizer": optimized,
    "inference mode": in_inference_mode,
    "load_state_dict": lambda m: m.load_state_dict(Net().state_dict()),
    "load_state_dict, assign": lambda m: m.load_state_dict(Net().state_dict(), assign=True),
    "another layer": lambda m: setattr(m, "conv", nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)),
    "kaiming": lambda m: nn.init.kaiming_normal_(m.groups.weight.data),
    "another buffer": swapped,
    "transposed": transposed,
    "running mean": lambda m: m.norm.running_mean.data.add_(0.3),
    "epsilon": lambda m: setattr(m.norm, "eps", 0.5),
    "layer norm": lambda m: m.layer_norm.weight.data.mul_(2),
    "layer scale": lambda m: m.scale.data.mul_(2),
    "weight norm": lambda m: parametrizations.weight_norm(m.conv).parametrizations.weight[0],
    "channels last": lambda m: m.to(memory_format=torch.channels_last),
    "half and back": lambda m: m.bfloat16().float(),
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_changes_between_passes_are_followed(way: str) -> None:
    model = net()
    removal, everything = LayerMasking(model, engine="sparse"), torch.ones_like(VISIBLE)
    before = removal(X, VISIBLE)
    WAYS[way](model)
    assert torch.allclose(removal(X, everything), model(X), rtol=1e-4, atol=1e-5)
    dense = LayerMasking(model, engine="dense")(X, VISIBLE)
    assert torch.allclose(removal(X, VISIBLE), dense, rtol=1e-4, atol=1e-5)
    changes = way not in ("weight norm", "channels last")
    assert changes != torch.allclose(dense, before, rtol=1e-4, atol=1e-5)
    assert removal.engine_used == "sparse"


class Changing(nn.Module):
    """Changes a weight after a layer was called with it, and before its output is needed."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.stem, self.point, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.point(F.relu(self.stem(x))))
        for weight in (self.point.weight, self.norm.weight, self.norm.running_mean):
            self.change(weight)
        return F.relu(y) + self.point(y)


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda w: w.mul_(0.7),
    "data": lambda w: w.data.mul_(0.7),
    "assigned": lambda w: setattr(w, "data", w.data * 0.7),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_changes_within_a_pass_are_followed(change: str) -> None:
    """As in layers that clip or normalise their weights whenever they are called."""
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(Changing(CHANGES[change]).eval())
    plain, dense, sparse = (
        models[0],
        LayerMasking(models[1], engine="dense"),
        LayerMasking(models[2], engine="sparse"),
    )
    everything = torch.ones_like(VISIBLE)
    for _ in range(3):
        assert torch.allclose(dense(X, everything), answer := plain(X), rtol=1e-4, atol=1e-5)
        assert torch.allclose(sparse(X, everything), answer, rtol=1e-4, atol=1e-5)
    assert sparse.engine_used == "sparse"


@torch.no_grad()
def test_norms_that_are_alike_may_change_within_a_pass() -> None:
    """Fresh batch norms hold the same: what one of them held is known of another."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)) for _ in range(5)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks).eval()

    def change(module: nn.Module, inputs: object, out: object) -> None:
        module.weight.data.mul_(1.1)  # type: ignore[union-attr]

    blocks[2][0].register_forward_hook(change)
    dense, sparse = LayerMasking(copy.deepcopy(model), engine="dense"), LayerMasking(model, engine="sparse")
    for _ in range(3):
        assert torch.allclose(sparse(X, VISIBLE), dense(X, VISIBLE), rtol=1e-4, atol=1e-5)


class Heads(nn.Module):
    """One convolution for maps of several sizes, each with a norm of its own, as detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        for norm in self.norms:
            norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return sum(F.relu(norm(self.shared(x))) for norm in self.norms)  # type: ignore[return-value]


@torch.no_grad()
def test_a_shared_convolution_is_prepared_once_for_each_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    from layermask.sparse import ops as kernels

    made, prepare = [], kernels.prepare
    monkeypatch.setattr(kernels, "prepare", lambda *given: (made.append(given), prepare(*given))[1])
    model = Heads().eval()
    removal = LayerMasking(model, engine="sparse")
    answers = [removal(X, VISIBLE) for _ in range(3)]
    assert len(made) == 4
    assert torch.equal(answers[0], answers[2])
    assert torch.allclose(answers[0], LayerMasking(model, engine="dense")(X, VISIBLE), atol=1e-5)


@torch.no_grad()
def test_weights_that_change_in_every_pass_do_not_pile_up() -> None:
    model = net()
    removal = LayerMasking(model, engine="sparse")
    counts = []
    for _ in range(6):
        removal(X, VISIBLE)
        counts.append(len(removal.sparse_engine.prepared._kept))
        WAYS["data.mul_"](model)
    assert max(counts) <= 2 * counts[0]


@torch.no_grad()
def test_an_error_names_the_operator_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put off fails where something later asks for it; the error tells where it was called."""
    from layermask.sparse import ops as kernels

    def fails(*given: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    model = net()
    monkeypatch.setattr(kernels, "depthwise", fails)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"no memory left \(in .*conv2d to a map of .*'depthwise'\)"
    ):
        LayerMasking(model, engine="sparse")(X, VISIBLE)


WRONG: dict[str, Callable[[Net], object]] = {
    "a layer norm's weight": lambda m: setattr(m.layer_norm, "weight", nn.Parameter(torch.ones(8))),
    "a layer norm's bias": lambda m: setattr(m.layer_norm, "bias", nn.Parameter(torch.ones(32))),
    "a running mean": lambda m: setattr(m.last, "running_mean", torch.zeros(8)),
    "a norm's bias": lambda m: setattr(m.last, "bias", nn.Parameter(torch.ones(3))),
    "a convolution's bias": lambda m: setattr(m.conv, "bias", nn.Parameter(torch.ones(5))),
    "channels": lambda m: setattr(m.conv, "weight", nn.Parameter(torch.ones(16, 7, 3, 3))),
    "groups": lambda m: setattr(m.groups, "groups", 3),
    "a point's channels": lambda m: setattr(m.point, "weight", nn.Parameter(torch.ones(16, 17, 1, 1))),
    "a dtype": lambda m: m.conv.double(),
    "a kernel larger than the map": lambda m: setattr(m, "conv", nn.Conv2d(16, 16, 31)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_raise_the_error_of_torch_at_once(name: str) -> None:
    """Where the layer is called, not where its output is needed."""
    model = net()
    WRONG[name](model)
    found = []
    for engine in ("dense", "sparse"):
        with pytest.raises(Exception) as caught:
            LayerMasking(model, engine=engine)(X, VISIBLE)
        layers = {frame.name for frame in caught.traceback if "self" in frame.frame.f_locals}
        found.append((type(caught.value), str(caught.value), "_conv_forward" in layers))
    assert found[0] == found[1]


@torch.no_grad()
def test_the_engine_that_answered_is_public() -> None:
    model = net()
    for engine, used in (("dense", "dense"), ("sparse", "sparse"), ("auto", "sparse")):
        removal = LayerMasking(model, engine=engine)
        assert removal.engine_used is None
        removal(X, VISIBLE)
        assert removal.engine_used == used and f"engine_used={used!r}" in repr(removal)
    with torch.enable_grad():
        removal(X.clone().requires_grad_(), VISIBLE)
    assert removal.engine_used == "dense"


@torch.no_grad()
def test_autocast_within_a_model_is_followed() -> None:
    class Casting(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.stem(x)))
            with torch.autocast("cpu", torch.bfloat16):
                return self.conv(x)

    torch.manual_seed(0)
    model = Casting().eval()
    dense, sparse = (LayerMasking(model, engine=engine)(X, VISIBLE) for engine in ("dense", "sparse"))
    assert dense.dtype is sparse.dtype is torch.bfloat16
    assert torch.allclose(dense.float(), sparse.float(), atol=2e-2)


@torch.no_grad()
def test_copies_of_a_value_are_values_of_their_own() -> None:
    seen = []

    class Copying(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.stem(x))
            seen.append((copy.copy(y), copy.deepcopy(y)))
            return self.conv(F.relu(y, inplace=True))

    torch.manual_seed(0)
    model = Copying().eval()
    answers = [LayerMasking(model, engine=engine)(X, VISIBLE) for engine in ("dense", "sparse")]
    assert torch.allclose(*answers, atol=1e-5)
    for shallow, deep in seen:
        assert (torch.where(shallow.visible, shallow.value, 0) >= 0).all()  # shares memory, as torch's do
        assert (torch.where(deep.visible, deep.value, 0) < 0).any()
        assert torch.equal((deep * 1).visible, deep.visible)
