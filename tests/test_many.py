"""Explaining many pictures: folders, paths and batches, in order, and continued where a run has stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layermask import Attribution, LayerMasking, Lime
from layermask.errors import InputError
from layermask.explain import FeatureAblation, attribute_each
from layermask.explain.many import fingerprint
from layermask.removal import Greyout
from layermask.segment.segmenters import Grid
from layermask.zoo import Preprocessing

SIDE = 28
PREPARE = Preprocessing((SIDE, SIDE), (SIDE, SIDE))
IMAGES = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """A model that counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.asked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), 0
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.asked = self.asked + len(x)
        return self.head(self.body(x).flatten(1))


@pytest.fixture
def model() -> Counting:
    return Counting().eval()


def explainer(model: nn.Module, **settings: object) -> Lime:
    return Lime(Greyout(model), n_samples=32, **settings)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    for name, each in zip(("b", "a", "in/c"), pixels, strict=True):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


def test_batches_are_explained_in_order(model: Counting) -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.tensor([0, 1, 2, 0, 1])), batch_size=2)
    found = dict(attribute_each(explainer(model), loader, Grid(14), labels=True))
    assert list(found) == [f"0000000{i}" for i in range(5)]
    assert [each.targets for each in found.values()] == [(0,), (1,), (2,), (0,), (1,)]
    for each, image, label in zip(found.values(), IMAGES, [0, 1, 2, 0, 1], strict=True):
        want = explainer(model).attribute(image[None], label, Grid(14)(image))
        torch.testing.assert_close(each.scores, want.scores, rtol=1e-5, atol=1e-6)
    found = dict(attribute_each(explainer(model), loader, Grid(14)))
    assert all(len(each.targets) == 2 for each in found.values())


def test_a_folder_is_explained(model: Counting, folder: Path) -> None:
    found = dict(attribute_each(explainer(model), folder, Grid(14), preprocessing=PREPARE))
    assert list(found) == ["a", "b", "in/c"]
    x = PREPARE(folder / "b.png")
    want = explainer(model).attribute(x, feature_mask=Grid(14)(x))
    assert torch.equal(found["b"].scores, want.scores)
    paths = [folder / "b.png", folder / "in" / "c.png"]
    again = dict(attribute_each(explainer(model), paths, Grid(14), preprocessing=PREPARE))
    assert list(again) == ["b", "c"] and torch.equal(again["c"].scores, found["in/c"].scores)
    pictures = [Image.open(path) for path in paths]
    again = dict(attribute_each(explainer(model), pictures, Grid(14), preprocessing=PREPARE))
    assert list(again) == ["00000000", "00000001"]


def test_a_stopped_run_continues(model: Counting, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(how: Lime) -> dict[str, Attribution]:
        return dict(attribute_each(how, folder, Grid(14), preprocessing=PREPARE, folder=out))

    first = run(explainer(model))
    assert torch.equal(Attribution.load(out / "in" / "c.json").scores, first["in/c"].scores)
    model.asked = 0
    again = run(explainer(model, perturbations_per_eval=5))
    assert model.asked == 0 and list(again) == list(first)
    assert all(torch.equal(again[name].scores, each.scores) for name, each in first.items())
    (out / "b.json").unlink()
    (out / "a.json").write_text("{")
    with pytest.warns(UserWarning, match=r"a\.json is damaged or no attribution: done again"):
        again = run(explainer(model))
    assert model.asked > 0 and torch.equal(again["a"].scores, first["a"].scores)


def test_what_changes_the_scores_is_done_again(model: Counting, folder: Path, tmp_path: Path) -> None:
    def asked(how: Lime, segmenter: Grid) -> int:
        model.asked = 0
        list(attribute_each(how, folder, segmenter, preprocessing=PREPARE, folder=tmp_path / "out"))
        return model.asked

    assert asked(explainer(model), Grid(14)) > 0 == asked(explainer(model), Grid(14))
    assert asked(explainer(model, seed=1), Grid(14)) > 0
    assert asked(explainer(model), Grid(7)) > 0
    with torch.no_grad():
        model.head.bias.add_(1)
    assert asked(explainer(model), Grid(7)) > 0 == asked(explainer(model), Grid(7))
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(folder / "a.png")
    assert asked(explainer(model), Grid(7)) > 0 == asked(explainer(model), Grid(7))


def test_removals_have_their_fingerprints() -> None:
    model = tiny.built("Gated")
    one = LayerMasking(model)
    before = fingerprint(one)
    with torch.no_grad():
        one(torch.zeros(1, 3, tiny.SIDE, tiny.SIDE), torch.ones(1, 1, tiny.SIDE, tiny.SIDE, dtype=torch.bool))
    assert fingerprint(one) == before  # engine_used is no setting
    others = [LayerMasking(model, growth="keep"), Greyout(model), LayerMasking(tiny.built("Branches"))]
    assert len({before, *map(fingerprint, others)}) == 4


def test_what_does_not_fit_is_refused(model: Counting, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pictures need preprocessing"):
        list(attribute_each(explainer(model), folder))
    with pytest.raises(InputError, match="pictures: there is no folder"):
        list(attribute_each(explainer(model), tmp_path / "none", preprocessing=PREPARE))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        list(attribute_each(explainer(model), tmp_path / "none", preprocessing=PREPARE))
    with pytest.raises(InputError, match="two pictures are called a"):
        list(attribute_each(explainer(model), [folder / "a.png"] * 2, Grid(14), preprocessing=PREPARE))
    with pytest.raises(InputError, match="labels=True, and the batches have none"):
        list(attribute_each(explainer(model), [IMAGES], labels=True))
    with pytest.raises(InputError, match="explainer is "):
        attribute_each(model, folder)  # type: ignore[arg-type]


def test_a_label_map_is_shared_by_a_batch(model: Counting) -> None:
    segments = Grid(14)(IMAGES)
    each = explainer(model).attribute_batch(IMAGES, 1, [segments] * 5)
    for shared in (segments, segments.numpy()):
        for one, other in zip(each, explainer(model).attribute_batch(IMAGES, 1, shared), strict=True):
            assert torch.equal(one.scores, other.scores)
    signals = torch.randn(2, 3, 12)
    ablation = FeatureAblation(lambda x, visible: (x * visible).mean(2))
    shared = ablation.attribute_batch(signals, 1, torch.arange(12) // 4)
    assert torch.equal(shared[1].scores, ablation.attribute(signals[1:], 1, torch.arange(12) // 4).scores)


def test_a_setting_of_another_name_is_refused_where_it_was_given(model: Counting) -> None:
    with pytest.raises(InputError, match=r"LIME has no setting 'targets' \(nearest: target"):
        explainer(model).attribute(IMAGES[:1], targets=[0, 2], feature_mask=Grid(14)(IMAGES))
