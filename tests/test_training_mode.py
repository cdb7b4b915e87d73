"""Models in training mode are mentioned once, by every removal and explainer, if it makes a difference."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from fitting import made
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.ops import StochasticDepth

from layermask import Calibrated, FeatureAblation, Grid, LayerMasking, PixelFill, TokenDropping
from layermask.removal import REMOVALS, Greyout
from layermask.removal.training import differs_in_training
from layermask.zoo.preprocessing import Preprocessing

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SEEN = (torch.arange(16) < 8).expand(2, 1, 16, 16)


class Noisy(nn.Module):
    """A user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class Indirect(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.more(x)

    def more(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


class Derived(Indirect):
    pass


class Retrained(nn.Module):
    """Sets the flag and does not go by it."""

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode and self.training
        return super().train(mode)


DIFFERENT: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(3),
    "dropout": lambda: nn.Dropout(0.1),
    "dropout2d": lambda: nn.Dropout2d(0.1),
    "rrelu": nn.RReLU,
    "stochastic depth": lambda: StochasticDepth(0.1, "row"),
    "own": Noisy,
    "own, in a method": Indirect,
    "own, inherited": Derived,
    "attention with dropout": lambda: nn.MultiheadAttention(4, 2, dropout=0.1),
}
SAME: dict[str, Callable[[], nn.Module]] = {
    "no rate": lambda: nn.Dropout(0.0),
    "no statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "no depth": lambda: StochasticDepth(0.0, "row"),
    "convolution": lambda: nn.Conv2d(3, 3, 1),
    "layer norm": lambda: nn.LayerNorm(16),
    "activation": nn.GELU,
    "container": nn.Sequential,
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "sets the flag": Retrained,
}


@pytest.mark.parametrize("name", [*DIFFERENT, *SAME])
def test_what_training_changes(name: str) -> None:
    assert differs_in_training((DIFFERENT | SAME)[name]()) == (name in DIFFERENT)


def model(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def heard(ask: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ask()
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("name", ["batch norm", "dropout", "rrelu", "stochastic depth", "own"])
@pytest.mark.parametrize("make", [LayerMasking, Greyout, lambda m: Calibrated(Greyout(m), 4)])
@pytest.mark.parametrize("part", ["the model", "one layer"])
def test_every_removal_mentions_it_once(make: Callable, name: str, part: str) -> None:
    net = model(DIFFERENT[name]())
    operator = make(net)
    assert heard(lambda: operator(X, SEEN)) == []
    (net if part == "the model" else net[0]).train()
    (text,) = heard(lambda: operator(X, SEEN))
    assert text.startswith("the model is in training mode: ") and "Call model.eval()" in text
    assert heard(lambda: operator(X, SEEN)) == []


@pytest.mark.parametrize("name", [each for each in REMOVALS if REMOVALS[each].extra == ""])
def test_no_removal_is_left_out(name: str) -> None:
    if REMOVALS[name].transformers_only:
        net = VisionTransformer(
            16, patch_size=4, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8, dropout=0.1
        )
    else:
        net = model(nn.BatchNorm2d(3)).train()
    preprocessing = Preprocessing(resize=(16, 16), crop=(16, 16))
    operator = made(name, net, preprocessing, Grid(4)(X[:1]))
    assert len(heard(lambda: operator(X, SEEN))) == 1


@pytest.mark.parametrize("name", ["no rate", "convolution", "no depth"])
def test_where_it_makes_no_difference_nothing_is_said(name: str) -> None:
    net = model(SAME[name]()).train()
    assert heard(lambda: LayerMasking(net)(X, SEEN)) == heard(lambda: Greyout(net)(X, SEEN)) == []


class Theirs(nn.Module):
    """A user's own removal."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        return self.model(images * visible)


@pytest.mark.parametrize("make", [LayerMasking, Greyout, Theirs, lambda m: PixelFill(m, lambda x, v: x * v)])
def test_explainers_mention_it(make: Callable) -> None:
    net = model(nn.Dropout(0.5)).train()
    operator = make(net)
    operator.train()
    texts = heard(lambda: FeatureAblation(operator, output="softmax").attribute(X[:1], 1, Grid(8)(X[:1])))
    assert len(texts) == 1 and "training mode: the Dropout" in texts[0]


def transformer(**options: float) -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, **options)
    nn.init.normal_(net.heads.head.weight)
    return net


def test_tokens_are_given_no_verdict_by_chance() -> None:
    operator = TokenDropping(transformer(dropout=0.5).train())
    assert len(heard(lambda: operator(X, SEEN))) == 1
    assert operator.drops is None
    operator.eval()
    assert heard(lambda: operator(X, SEEN)) == []
    assert operator.drops is True


def test_a_model_that_is_random_in_evaluation_gets_no_verdict_either() -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn(1)

    net = transformer().eval()
    net.heads.head = nn.Sequential(net.heads.head, Random())
    operator = TokenDropping(net)
    assert heard(lambda: operator(X, SEEN)) == []
    assert operator.drops is None


class Counting(nn.Module):
    """Depends on the number of tokens in training mode, and on nothing random."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.shape[1] if self.training else x


def test_tokens_are_given_no_verdict_by_what_training_changes() -> None:
    net = transformer()
    net.encoder.ln = nn.Sequential(net.encoder.ln, Counting())
    operator = TokenDropping(net.train())
    assert len(heard(lambda: operator(X, SEEN))) == 1
    assert operator.drops is None
    operator.eval()
    operator(X, SEEN)
    assert operator.drops is True
