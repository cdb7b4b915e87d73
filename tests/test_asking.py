"""Masks are asked about in the order of what they show, and no result depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import layermask as lm
from layermask.explain.explainer import Explainer
from layermask.explain.query_plan import Query, QueryPlan, Segments, by_visibility, run
from layermask.explain.registry import EXPLAINERS
from layermask.zoo.loaded import Loaded

SIDE = 12
IMAGE = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)
# 12 segments of 1, 2, 3, ... pixels and one of the rest: how many are shown says little of how much is
UNEVEN = torch.arange(13).repeat_interleave(torch.tensor([*range(1, 13), 66])).view(SIDE, SIDE)
QUIET = pytest.mark.filterwarnings("ignore:.*too few to tell them apart")


class Watched:
    """A removal that answers each mask by itself, and notes what it was shown."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.weight = torch.randn(SIDE * SIDE, 3, generator=draw, dtype=torch.double)
        self.batches: list[Tensor] = []

    def __call__(self, images: Tensor, visible: Tensor) -> Tensor:
        self.batches.append(visible.flatten(1).sum(1))
        flat = (images * visible).flatten(2).sum(1).double()
        return torch.stack([row.tanh() @ self.weight for row in flat])  # one by one: the same to the bit


def as_drawn(shown: Tensor, masks: Callable[[Tensor], Tensor]) -> Query:
    return Query(len(shown), lambda start, stop: masks(torch.arange(start, stop)))


def explain(name: str, batch: int, **settings: object) -> lm.Attribution:
    kind = EXPLAINERS[name]
    known = {field.name for field in dataclasses.fields(kind)}
    some = {"n_samples": 300, "sliding_window_shapes": 4, "strides": 2, **settings}
    given = {key: value for key, value in some.items() if key in known}
    made: Explainer = kind(Watched(), output="logit", perturbations_per_eval=batch, **given)
    return made.attribute(IMAGE, None, UNEVEN)


@QUIET
@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_result_depends_on_the_order_of_asking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [explain(name, batch) for batch in (7, 32)]
    for module in ("query_plan", "rise"):
        monkeypatch.setattr(f"layermask.explain.{module}.by_visibility", as_drawn)
    plain = explain(name, 7)
    for found in ours:
        for field in ("scores", "stderr", "intercept", "r2", "region"):
            ours_, theirs = getattr(found, field), getattr(plain, field)
            assert (ours_ is None) == (theirs is None)
            if theirs is not None:
                assert ours_.equal(theirs) or torch.allclose(ours_, theirs, atol=0, rtol=0, equal_nan=True)
        assert found.n_samples == plain.n_samples


@QUIET
@pytest.mark.parametrize("name", ["lime", "kernel-shap", "shapley", "banzhaf", "rise"])
def test_a_batch_shows_about_as_much_in_every_mask(name: str) -> None:
    """Within one ask the masks come from the one that shows least."""
    removal = Watched()
    made = EXPLAINERS[name](removal, output="logit", perturbations_per_eval=32, n_samples=256)
    made.attribute(IMAGE, 0, UNEVEN)
    asked = [batch for batch in removal.batches if len(batch) > 1]
    assert len(asked) >= 8
    spread = sum(float(batch.double().std()) for batch in asked) / len(asked)
    assert spread < 0.3 * float(torch.cat(asked).double().std())


def test_ties_keep_their_order_and_answers_find_their_masks() -> None:
    segments = Segments(UNEVEN, torch.device("cpu"))
    rows = torch.rand(40, 13, generator=torch.Generator().manual_seed(0)) < 0.5
    rows = torch.cat([rows, rows])  # every one twice
    ask = segments.show(rows)
    assert ask.order is not None
    shown = segments.masks(rows).flatten(1).sum(1)[ask.order]
    assert shown.equal(shown.sort().values)
    ties = shown.diff() == 0
    assert int(ties.sum()) >= 40 and bool((ask.order.diff()[ties] > 0).all())
    assert ask.visible(3, 9).equal(segments.masks(rows[ask.order[3:9]]))

    def plan() -> QueryPlan:
        return (yield segments.show(rows))

    def forward(images: Tensor, visible: Tensor) -> Tensor:
        return visible.flatten(1).float() @ torch.arange(SIDE * SIDE * 2.0).view(-1, 2)

    [found] = run([plan()], IMAGE, [[0, 1]], forward, 9, lambda done: None)
    assert found.values.equal(forward(IMAGE, segments.masks(rows)).double())


def test_masks_are_made_when_asked_for() -> None:
    made: list[int] = []

    def masks(indices: Tensor) -> Tensor:
        made.append(len(indices))
        return torch.ones(len(indices), 1, 2, 2, dtype=torch.bool)

    ask = by_visibility(torch.rand(1000), masks)
    assert made == []
    ask.visible(0, 32)
    assert made == [32]


def test_layer_masking_answers_as_in_any_other_batch(builtin: Loaded) -> None:
    """Law 5: up to rounding, what shares a batch does not matter."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    segments = lm.Grid(16)(torch.empty(64, 64))
    removal = lm.LayerMasking(builtin.model)
    lime = lm.Lime(removal, n_samples=40, output="logit")
    ours = lime.attribute(image, 0, segments, perturbations_per_eval=8)
    one_by_one = lime.attribute(image, 0, segments, perturbations_per_eval=1)
    torch.testing.assert_close(ours.scores, one_by_one.scores, rtol=1e-4, atol=1e-5)
