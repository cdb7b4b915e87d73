"""The shapes in annotations hold: jaxtyping and beartype watch while laws are judged."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from layermask.explain.registry import EXPLAINERS
from layermask.metrics import localisation, operators, predictions, shape_bias
from layermask.metrics.flipping import curve
from layermask.removal.fills.constant import Constant
from layermask.removal.painting import PixelFill
from layermask.removal.registry import REMOVALS, removal
from layermask.testing import ExplainerLaws, FillLaws, RemovalLaws
from layermask.testing.explainers import smooth_game, stripes
from layermask.zoo.preprocessing import Preprocessing

jaxtyping = pytest.importorskip("jaxtyping", reason="what checks shapes is not installed: jaxtyping")
beartype = pytest.importorskip("beartype", reason="what checks shapes is not installed: beartype")

ROOMS = ("removal", "explain", "metrics")


def modules() -> Iterator[ModuleType]:
    for name, module in sorted(sys.modules.items()):
        if name.startswith(tuple(f"layermask.{room}." for room in ROOMS)):
            yield module


def annotated(holder: Any, module: ModuleType) -> Iterator[tuple[str, Callable]]:
    """The functions of a module or class that have a shape in their annotations."""
    for name, found in list(vars(holder).items()):
        ours = inspect.isfunction(found) and found.__module__ == module.__name__
        if ours and any("[Tensor, " in str(hint) for hint in found.__annotations__.values()):
            yield name, found


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Have the shapes checked in every function that names any; return those functions."""
    names: set[str] = set()
    check = functools.partial(jaxtyping.jaxtyped, typechecker=beartype.beartype)
    for module in modules():
        for kind in ("Bool", "Float", "Int", "Shaped"):
            monkeypatch.setattr(module, kind, getattr(jaxtyping, kind), raising=False)
        classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        for holder in (module, *classes):
            for name, function in annotated(holder, module):
                get_type_hints(function)  # names that are not there would be found in the middle of a law
                names.add(function.__qualname__)
                monkeypatch.setattr(holder, name, check(function))
    return names


def test_shapes_are_watched(watched: set[str]) -> None:
    assert watched >= {"Fill.__call__", "LayerMasking.forward", "Explainer.attribute", "Attribution.heatmap"}
    assert watched >= {"Attribution.__init__", "Curve.__init__", "Predictions.__init__", "ShapeBias.__init__"}
    assert watched >= {f"{kind}.paint" for kind in ("Blurred", "Noise", "PushPull")} | {"kendall", "top_k"}
    fill, images = Constant(), torch.zeros(2, 3, 4, 4)
    for visible in (torch.ones(2, 2, 4, 4).bool(), torch.ones(2, 1, 4, 5).bool(), torch.ones(2, 1, 4, 4)):
        with pytest.raises(jaxtyping.TypeCheckError):
            fill.paint(images, visible)
    fill.paint(images, torch.ones(1, 1, 4, 4, dtype=torch.bool))


def operator(name: str, model: nn.Module) -> nn.Module:
    segments = torch.arange(96).view(12, 8) // 7
    return removal(name, model, Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3), segments)


@pytest.mark.parametrize(
    "law", [law for law in FillLaws.names() if "plain" in law or "stay" in law or "many" in law]
)
@pytest.mark.parametrize("name", [n for n, entry in REMOVALS.items() if not entry.transformers_only])
def test_removals_and_fills(name: str, law: str) -> None:
    if REMOVALS[name].extra:
        pytest.importorskip("cv2")
    if law in RemovalLaws.names():
        suite = RemovalLaws.of(lambda model: operator(name, model), reads_hidden=REMOVALS[name].reads_hidden)
        suite(law).debug()
    elif isinstance(found := operator(name, nn.Identity()), PixelFill):
        FillLaws.of(found.fill)(law).debug()


@pytest.mark.parametrize(
    "law", [law for law in ExplainerLaws.names() if "pictures" in law or "volumes" in law]
)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_and_attributions(name: str, law: str) -> None:
    settings = {"n_samples": 30} if hasattr(EXPLAINERS[name], "n_samples") else {}
    ExplainerLaws.of(EXPLAINERS[name], settings=settings)(law).debug()


@pytest.mark.filterwarnings("ignore:.*too few")
@pytest.mark.parametrize("shape", [(12,), (12, 12), (12, 12, 12)], ids=len)
def test_attributions_and_curves(shape: tuple[int, ...]) -> None:
    game, segments = smooth_game(6), stripes(6, len(shape))
    game.segments = segments.flatten()
    game.sizes = game.segments.bincount()
    found = EXPLAINERS["shapley"](game, n_samples=30).attribute(torch.ones(1, 2, *shape), [0, 2], segments)
    assert found.heatmap(1).shape == shape and found.visible(2).shape == (1, 1, *shape)
    assert found.interval()[0].shape == (2, 6)
    assert curve(game, torch.ones(1, 2, *shape), found).area().shape == (2,)


def test_metrics() -> None:
    predicted, labels = torch.randint(0, 9, (5, 4)), torch.randint(0, 9, (5,))
    fractions, weights = torch.linspace(0, 1, 4), torch.ones(3, 5, dtype=torch.float64)
    answers = predictions.Predictions(predicted, fractions, labels)
    for name in ("accuracy", "unchanged", "class-entropy", "wordnet-similarity"):
        assert answers.curve(name).shape == (4,) and answers.curve(name, weights=weights).shape == (3, 4)
        assert answers.area(name, weights=weights).shape == (3,)
    scores, segments = torch.rand(6, dtype=torch.float64), stripes(6)
    assert localisation.top_k_jaccard(scores, segments, torch.ones(12, 12), 2) > 0
    assert -1 <= localisation.alignment(scores, segments, torch.rand(12, 12)) <= 1
    assert operators.kendall(torch.rand(2, 7), torch.rand(1, 7)).shape == (2,)
    assert -1 <= operators.rank_stability(torch.rand(3, 8)) <= 1
    assert shape_bias.broken_mask(torch.ones(2, 1, 5, 6, dtype=torch.bool)).shape == (2, 1, 5, 6)
    right = torch.rand(2, 5) < 0.5
    right[:, 0] = True  # of none, there is no bias
    whole = labels.where(right[0], labels + 1)
    assert shape_bias.shape_bias(labels, whole, labels, labels).difference.shape == (int(right[0].sum()),)
