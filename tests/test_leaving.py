"""Outputs of any class leave with plain tensors, and operators are copied, pickled and forgotten whole."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from layermask import Calibrated, FeatureAblation, Grid, LayerMasking, Masked, TokenDropping
from layermask.core.outputs import to_plain
from layermask.errors import ModelError
from layermask.removal import Greyout, MeanFill, NoiseFill, SegmentMeanFill

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5
HALF = (torch.arange(8) < 4).expand(2, 1, 8, 8)


@dataclass
class Output:
    logits: Any
    extra: Any = None
    name: str = "kept"


@dataclass(frozen=True)
class Frozen:
    logits: Any


@dataclass(slots=True)
class Slotted:
    logits: Any


class Own:
    def __init__(self, logits: Any) -> None:
        self.logits, self.parts = logits, {"again": [logits, (logits,)]}


class Named(NamedTuple):
    logits: Any
    count: int


class Mine(dict):
    """A container that torch does not know."""


class Listed(list):
    pass


class Cyclic:
    def __init__(self, logits: Any) -> None:
        self.logits, self.me = logits, self


class Closed:
    """Cannot be copied."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no copies")


KINDS: dict[str, Callable[[Any], Any]] = {
    "dataclass": Output,
    "nested": lambda x: Output(x, [Output(x, {"deep": (x, Frozen(x))})]),
    "frozen": Frozen,
    "slots": Slotted,
    "own class": Own,
    "named tuple": lambda x: Named(x, 1),
    "dict of one's own": lambda x: Mine(logits=x),
    "list of one's own": lambda x: Listed([x, Own(x)]),
    "ordered": lambda x: OrderedDict(logits=x),
    "deque": lambda x: deque([x, Frozen(x)]),
    "set": lambda x: [{x}, frozenset([x])],
    "cycle": Cyclic,
    "tuple": lambda x: (x, [x], {"a": x}, None, "text", 3),
}


def tensors(x: Any, seen: tuple = ()) -> list[Tensor]:
    """Every tensor within, found in another way than the library does."""
    if isinstance(x, (Tensor, Masked)):
        return [x]
    if any(x is other for other in seen) or isinstance(x, (str, int, type(None))):
        return []
    inner = [*(x.values() if isinstance(x, dict) else x if hasattr(x, "__iter__") else ())]
    inner += [*getattr(x, "__dict__", {}).values()] + [getattr(x, s) for s in getattr(x, "__slots__", ())]
    return [tensor for each in inner for tensor in tensors(each, (*seen, x))]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_any_class_hold_plain_tensors(kind: str) -> None:
    value = Masked(X.clone(), M)
    theirs = KINDS[kind](value)
    count = len(tensors(theirs))
    ours = to_plain(theirs)
    found = tensors(ours)
    assert type(ours) is type(theirs) and len(found) == count > 0
    for x in found:
        assert type(x) is Tensor and torch.equal(x, torch.where(M, X, 0))
    assert all(x is value for x in tensors(theirs)), "the model's own object was changed"


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_nothing_masked_is_handed_on(kind: str) -> None:
    theirs = KINDS[kind](X)
    ours = to_plain(theirs)
    assert len(tensors(ours)) == len(tensors(theirs)) and all(x is X for x in tensors(ours))
    assert ours is theirs or type(theirs) in (tuple, list, OrderedDict, deque, Named)


@pytest.mark.parametrize("kind", ["generator", "map", "iterator", "values"])
def test_what_yields_its_parts_later_is_refused(kind: str) -> None:
    class Later(nn.Module):
        def forward(self, x: Tensor) -> Any:
            ways = {
                "generator": lambda: (y for y in (x, x)),
                "map": lambda: map(torch.relu, [x]),
                "iterator": lambda: iter([x]),
                "values": {"x": x}.values,
            }
            return {"found": ways[kind]()}

    with pytest.raises(ModelError, match="return a list, tuple or dict"):
        LayerMasking(Later())(X, M)


def test_what_cannot_be_copied_is_named() -> None:
    with pytest.raises(ModelError, match="holds masked values in a Closed, which cannot be copied"):
        to_plain([Closed(Masked(X, M))])
    assert to_plain([closed := Closed(X)])[0] is closed


class Wrapping(nn.Module):
    def __init__(self, wrap: Callable) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
        self.net, self.wrap, self.last = nn.Sequential(*layers), wrap, None

    def forward(self, x: Tensor) -> Any:
        self.last = self.wrap(self.net(x))
        return self.last


@pytest.mark.parametrize("kind", ["dataclass", "frozen", "slots", "own class", "named tuple", "cycle"])
def test_explainers_read_the_scores_of_any_class(kind: str) -> None:
    model = Wrapping(KINDS[kind]).eval()
    ours = FeatureAblation(LayerMasking(model)).attribute(X[:1], 1, Grid(4)(X[:1]))
    theirs = FeatureAblation(LayerMasking(model.net)).attribute(X[:1], 1, Grid(4)(X[:1]))
    assert torch.equal(ours.scores, theirs.scores)
    assert isinstance(model.last.logits, Masked), "what the model keeps is its own"


def test_masking_ends_behind_a_module_that_answers_with_any_class() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Wrapping(Frozen)

        def forward(self, x: Tensor) -> Any:
            out = self.first(x).logits
            assert isinstance(x, Tensor) or type(out) is Tensor
            return out

    LayerMasking(Behind().eval(), until="first")(X, M)


# --- copies ------------------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(6)]
    return nn.Sequential(*convolutions, nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def tokens() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8).eval()
    nn.init.normal_(model.heads.head.weight)
    return model


def doubled(input: Masked, *args: Any) -> Masked:
    return Masked(input.value * 2, input.visible)


OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "auto": lambda: LayerMasking(small()),
    "sparse": lambda: LayerMasking(small(), engine="sparse"),
    "dense": lambda: LayerMasking(small(), engine="dense", growth="keep", join="union"),
    "release": lambda: LayerMasking(tokens(), compat="release"),
    "rules": lambda: LayerMasking(small(), rules={torch.flatten: doubled}),
    "until": lambda: LayerMasking(small(), until="2"),
    "tokens": lambda: TokenDropping(tokens()),
    "grey": lambda: Greyout(small()),
    "mean": lambda: MeanFill(small()),
    "noise": lambda: NoiseFill(small()),
    "segments": lambda: SegmentMeanFill(small(), Grid(4)(X[:1])),
    "calibrated": lambda: Calibrated(Greyout(small()), 16),
}


def saved(removal: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(removal, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES: dict[str, Callable] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda removal: pickle.loads(pickle.dumps(removal)),
    "torch.save": saved,
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_copy_answers_equally(name: str, way: str, used: bool) -> None:
    removal = OPERATORS[name]()
    with torch.no_grad():
        if used:
            removal(X, M)
        twin = COPIES[way](removal)
        assert torch.equal(twin(X, HALF), removal(X, HALF))
        if way != "copy":  # it has a model of its own
            for parameter in twin.model.parameters():
                parameter.mul_(0.5)
            assert not torch.allclose(twin(X, HALF), removal(X, HALF))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_copy_notices_the_training_mode_of_its_own_model(name: str) -> None:
    removal = OPERATORS[name]()
    twin = copy.deepcopy(removal)
    twin.train()
    if "token" in name or name == "release":  # no part of theirs acts differently
        return
    with pytest.warns(UserWarning, match="training mode"):
        twin(X, M)
    removal(X, M)


# --- lifetimes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_a_dead_operator_keeps_nothing_alive(name: str) -> None:
    """Nor does its model, which lives on, hold anything of it."""
    removal = OPERATORS[name]()
    model, found = removal.model, weakref.ref(removal)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with torch.no_grad():
        removal(X, M)
    sparse_engine = getattr(removal, "sparse_engine", None)
    traces = [
        found,
        *(
            [weakref.ref(sparse_engine), weakref.ref(sparse_engine.memory)]
            if sparse_engine is not None
            else []
        ),
    ]
    del removal, sparse_engine
    gc.collect()
    assert [ref() for ref in traces] == [None] * len(traces)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_images_and_masks_of_a_pass_are_let_go() -> None:
    removal, images, visible = LayerMasking(small()), X.clone(), M.clone()
    refs = [weakref.ref(images), weakref.ref(visible)]
    with torch.no_grad():
        removal(images, visible)
    del images, visible
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
