"""Law 3: the rules are differentiated as they stand, and hidden pixels neither get nor give a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layermask import LayerMasking, Masked, NoMaskRule
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = draw(2, 4, 4, 3)
VISIBLE = torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(4)) < 0.5
KERNELS = {
    shape: draw(*shape, seed=1)
    for shape in [(2, 4, 3, 3), (4, 1, 3, 3), (2, 4, 1, 1), (4, 2, 2, 2), (2, 4, 3), (2, 1, 3, 3, 3)]
}
STATE = draw(1, 2, 3, seed=2)
LSTM = [draw(12, 4, seed=3), draw(12, 3, seed=4), draw(12, seed=5), draw(12, seed=6)]
ODD = torch.zeros(2, 4, 4, 3, dtype=torch.bool)
ODD[:, ::2] = True


def _conv(x: Tensor, shape: tuple = (2, 4, 3, 3), **options: object) -> Tensor:
    return F.conv2d(x, KERNELS[shape], **options)  # type: ignore[arg-type]


def _written(x: Tensor) -> Tensor:
    out = x * 2
    out[:, 1:] = x[:, :3] * x[:, 1:]
    out[0] += x[1].cos()
    return out


RULES: dict[str, Callable] = {
    "conv": lambda x: _conv(x, padding=1),
    "strided conv": lambda x: _conv(x, stride=2, padding=1),
    "depthwise conv": lambda x: _conv(x, (4, 1, 3, 3), padding="same", dilation=2, groups=4),
    "pointwise conv": lambda x: _conv(x, (2, 4, 1, 1)),
    "padded conv": lambda x: _conv(F.pad(x, (0, 1, 1, 2)), stride=2),
    "conv 1d": lambda x: F.conv1d(x[:, :, 0], KERNELS[2, 4, 3], padding=1),
    "conv 3d": lambda x: F.conv3d(x[:, None], KERNELS[2, 1, 3, 3, 3], padding=1),
    "transposed conv": lambda x: F.conv_transpose2d(x, KERNELS[4, 2, 2, 2], stride=2),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2, 1, 1, count_include_pad=False),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 2),
    "lp pool": lambda x: F.lp_pool2d(x.exp(), 3, 2),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch norm in evaluation": lambda x: F.batch_norm(x, draw(4), draw(4).abs()),
    "layer norm": lambda x: F.layer_norm(x, (4, 4, 3)),
    "layer norm over channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)),
    "rms norm": lambda x: F.rms_norm(x, (4, 3)),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "gelu": F.gelu,
    "glu": lambda x: F.glu(x, 1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "residual": lambda x: x + _conv(x, (4, 1, 3, 3), padding=1, groups=4),
    "join of two masks": lambda x: x * x.flip(-1),
    "concatenation": lambda x: torch.cat([x, x.flip(2)], 1),
    "in place": lambda x: (x * 1).mul_(x.flip(2)).add_(x).relu_(),
    "written by index": _written,
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum((-1, -2)),
    "maximum": lambda x: x.amax((2, 3)),
    "variance": lambda x: x.var((2, 3)),
    "deviation": lambda x: x.std((2, 3), correction=0),
    "norm": lambda x: x.norm(dim=(2, 3)),
    "normalize": lambda x: F.normalize(x.flatten(2), dim=-1),
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "cumulative sum": lambda x: x.cumsum(2),
    "softmax": lambda x: x.flatten(2).softmax(-1),
    "log-softmax": lambda x: F.log_softmax(x.flatten(2), -1),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3),
    "softmax of products": lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT,
    "covariance": lambda x: x.flatten(2) @ x.flatten(2).mT,
    "einsum": lambda x: torch.einsum("ncij,ndij->ncd", x, x),
    "flatten and linear": lambda x: F.linear(x.flatten(1), draw(3, 48)),
    "interpolate": lambda x: F.interpolate(x, size=(7, 5), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "unfold": lambda x: F.unfold(x, 2, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 2), (4, 3), 2),
    "recurrent": lambda x: torch.lstm(
        x[:, :, :, 0].mT, (STATE, STATE), LSTM, True, 1, 0.0, False, False, True
    )[0],
    "gather": lambda x: x.gather(2, torch.tensor([[[[0, 1, 2]], [[3, 3, 0]]]]).expand(2, 2, 1, 3)),
}
OPTIONS = [
    {"fill": "zero"},
    {"fill": "renormalize"},
    {"compat": "paper"},
    {"compat": "release"},
    {"growth": "half"},
    {"growth": "keep", "pool": "neighbor"},
    {"join": "union"},
]


def outcome(apply: Callable, x: Tensor, visible: Tensor, **settings: object) -> Tensor:
    """What is visible of the result; hidden entries are blank."""
    masked = Masked(x, visible)
    masked.forward_pass = ForwardPass(Settings(**settings))  # type: ignore[arg-type]
    out = apply(masked)
    return torch.where(out.visible, out.value, 0.0)


@pytest.mark.parametrize("mask", ["spatial", "channels"])
@pytest.mark.parametrize("name", RULES)
def test_gradcheck(name: str, mask: str) -> None:
    """In all entries: those of hidden ones are zero, both ways."""
    visible = VISIBLE if mask == "spatial" else ODD | VISIBLE
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: outcome(RULES[name], x, visible), (x,), fast_mode=mask != "spatial"
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "name", ["padded conv", "strided conv", "max pool", "average pool", "join of two masks", "mean"]
)
def test_gradcheck_of_options(name: str, options: dict) -> None:
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: outcome(RULES[name], x, VISIBLE, **options), (x,), fast_mode=True
    )


@pytest.mark.parametrize("content", [math.nan, math.inf, 0.0, -1e30])
@pytest.mark.parametrize("name", RULES)
def test_hidden_entries_get_zero_and_spoil_nothing(name: str, content: float) -> None:
    """Whatever they hold, as `LayerMasking` settles it once on entry."""
    x = torch.where(VISIBLE, X, content).requires_grad_()
    clean = X.clone().requires_grad_()
    for leaf in (x, clean):
        outcome(RULES[name], torch.where(VISIBLE, leaf, 0.0), VISIBLE).square().sum().backward()
    assert torch.equal(x.grad, clean.grad)
    assert (x.grad[~VISIBLE.expand(x.shape)] == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("number", ["none", "one", "all"])
def test_gradients_are_finite_where_all_or_nothing_is_visible(name: str, number: str) -> None:
    """All visible: those of the plain operation, also at its kinks (a constant map)."""
    visible = torch.full_like(VISIBLE, number == "all")
    visible[..., 1:2, 1:2] |= number == "one"
    x = torch.ones_like(X, requires_grad=True)
    outcome(RULES[name], torch.where(visible, x, 0.0), visible).sum().backward()
    assert x.grad.isfinite().all()
    if number == "all":
        plain = torch.ones_like(X, requires_grad=True)
        RULES[name](plain).sum().backward()
        assert torch.allclose(x.grad, plain.grad, atol=1e-10)


# --- whole models ------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Convolutions, batch norm, a residual, a gate, a pool and a head, in place where torch models are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv, self.act, self.pool = (
            nn.Conv2d(12, 12, 3, padding=1, groups=3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.squeeze, self.head = nn.Conv2d(12, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.stem(x))))
        out = self.conv(x)
        out += x
        out = out * self.squeeze(out.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(self.act(out).mean((2, 3)))


IMAGES, SEEN = draw(3, 3, 8, 8), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4
SEEN[2] = False


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    LayerMasking(model)(images, SEEN).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("content", [math.nan, -math.inf, 1e6])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_weight_gradients_know_nothing_of_hidden_pixels(training: bool, content: float) -> None:
    model = Small().double().train(training)
    theirs = gradients(model, torch.where(SEEN, IMAGES, 0.0))
    for name, ours in gradients(model, torch.where(SEEN, IMAGES, content)).items():
        assert ours.isfinite().all(), name
        assert torch.equal(ours, theirs[name]), name
        assert ours.any(), name


def test_gradcheck_of_a_model() -> None:
    model, images = Small().double().eval(), IMAGES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LayerMasking(model)(x, SEEN), (images,), fast_mode=True)
    LayerMasking(model)(images, SEEN).sum().backward()
    assert (images.grad[~SEEN.expand(images.shape)] == 0).all()
    assert images.grad[SEEN.expand(images.shape)].any()


def test_second_derivatives() -> None:
    model, images = Small().double().eval(), IMAGES[:1].clone().requires_grad_()
    model.act, model.pool = nn.SiLU(), nn.AvgPool2d(2)
    assert torch.autograd.gradgradcheck(lambda x: LayerMasking(model)(x, SEEN[:1]), (images,), fast_mode=True)


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_training_learns() -> None:
    model, labels = Small().double().train(), torch.tensor([1, 3, 0])
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(LayerMasking(model)(IMAGES, SEEN), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_training_mode_is_mentioned_once() -> None:
    removal = LayerMasking(Small().double().train())
    with pytest.warns(UserWarning, match="in training mode: batch norm takes its statistics from this batch"):
        removal(IMAGES, SEEN)
    removal(IMAGES, SEEN)


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_running_statistics_are_of_visible_entries() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0)).double().train()
    LayerMasking(model)(IMAGES, SEEN)
    kept = torch.stack([IMAGES[:, c][SEEN[:, 0]] for c in range(3)])
    assert torch.allclose(model[0].running_mean, kept.mean(1))
    assert torch.allclose(model[0].running_var, kept.var(1))
    assert model[0].num_batches_tracked == 1


@pytest.mark.parametrize("cls", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_running_statistics_wait_for_something_to_see(cls: type) -> None:
    norm = cls(3, track_running_stats=True).double().train()
    norm.running_mean += 5
    norm(Masked(IMAGES, torch.zeros_like(SEEN)))
    assert (norm.running_mean == 5).all()
    assert (norm.running_var == 1).all()


# --- what else listens to gradients ------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 2


class UsesDoubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.inner[1].forward = Doubled.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mean((2, 3))


def test_an_autograd_function_is_refused() -> None:
    model = UsesDoubled().double()
    with pytest.raises(
        NoMaskRule, match=r"Doubled\.apply.*takes plain tensors only: the gradient would be lost silently"
    ):
        LayerMasking(model)(IMAGES, SEEN)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant: bool) -> None:
    model = Small().double().eval()
    tail = nn.Sequential(model.pool, model.conv, model.act)

    def run(wrap: Callable) -> Tensor:
        images = IMAGES.clone().requires_grad_()
        out = wrap(model.stem(Masked(images, SEEN)))
        torch.where(out.visible, out.value, 0).square().sum().backward()
        return images.grad

    plain = run(tail)
    if reentrant:  # it runs the model inside an autograd.Function: nothing may get lost in silence
        with pytest.raises(NoMaskRule, match=r"CheckpointFunction\.apply"):
            run(lambda x: checkpoint(tail, x, use_reentrant=True))
    else:
        assert torch.equal(run(lambda x: checkpoint(tail, x, use_reentrant=False)), plain)


def test_hooks_see_pairs() -> None:
    model, seen = Small().double().eval(), []
    for module in (model.conv, model.head):
        module.register_forward_pre_hook(lambda module, inputs: seen.append(type(inputs[0])))
        module.register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    LayerMasking(model)(IMAGES, SEEN)
    assert len(seen) == 4 and all(issubclass(each, Masked) for each in seen)


def test_a_hook_may_replace_the_output() -> None:
    model = Small().double().eval()
    before = LayerMasking(model)(IMAGES, SEEN)
    model.conv.register_forward_hook(lambda module, inputs, output: output * 0)
    assert not torch.equal(LayerMasking(model)(IMAGES, SEEN), before)


def test_full_backward_hooks_are_refused() -> None:
    """They are torch's, for tensors with memory; forward hooks and `Tensor.register_hook` work."""
    model = Small().double().eval()
    model.head.register_full_backward_hook(lambda module, grads_in, grads_out: None)
    with pytest.raises(NoMaskRule, match=r"register_full_backward_hook .*head.*no_grad"):
        LayerMasking(model)(IMAGES.clone().requires_grad_(), SEEN)
    with torch.no_grad():
        LayerMasking(model)(IMAGES, SEEN)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_mode_and_tensor_hooks() -> None:
    model, images, seen = Small().double().eval(), IMAGES.clone().requires_grad_(), []
    with torch.autograd.detect_anomaly(check_nan=True):
        out = LayerMasking(model)(images, SEEN)
        out.register_hook(lambda grad: seen.append(grad.shape))
        out.sum().backward()
    assert seen == [(3, 5)]
