"""shap's own explainers over a removal, against Shapley values by their definition."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from adapted import CLASSES, EIGHT, SIDE, Additive, shapley, shown, small_model, some_images

import layermask as lm
from layermask.adapters.shap import segment_tree
from layermask.errors import InputError
from layermask.segment.segmenters import Grid

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # shap changes a colour map as matplotlib no longer wants it
    import shap

IMAGES = some_images(2)
SIXTEEN = Grid(4)(torch.empty(SIDE, SIDE))


@pytest.fixture(scope="module")
def removal() -> lm.LayerMasking:
    return lm.LayerMasking(small_model())


def ends(removal, labels, images=IMAGES):
    """Return the answers to the whole images and to nothing."""
    count = int(labels.max()) + 1
    return [removal(images, shown(labels, list(range(n)))).double().numpy() for n in (count, 0)]


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize("algorithm", ["permutation", "exact", "partition", "auto"])
def test_values_add_up(removal, algorithm, partition):
    if algorithm == "partition" and not partition:
        pytest.skip("needs a hierarchy")
    model, masker = lm.adapters.as_shap(removal, EIGHT, partition=partition)
    found = shap.Explainer(model, masker, algorithm=algorithm, seed=0)(IMAGES, silent=True)
    whole, nothing = ends(removal, EIGHT)
    assert found.values.shape == (2, 8, CLASSES)
    assert np.abs(whole - nothing).min() > 1e-3
    np.testing.assert_allclose(found.values.sum(1), whole - nothing, atol=1e-5)
    np.testing.assert_allclose(found.base_values, nothing, atol=1e-6)


def test_exact_values_are_those_of_the_definition(removal):
    model, masker = lm.adapters.as_shap(removal, EIGHT, target=2)
    found = shap.Explainer(model, masker, algorithm="exact")(IMAGES, silent=True)
    for image, values in zip(IMAGES.split(1), found.values, strict=True):
        np.testing.assert_allclose(values, shapley(removal, image, EIGHT, 2), atol=1e-5)


def test_permutations_come_close_to_the_definition(removal):
    model, masker = lm.adapters.as_shap(removal, EIGHT, target=2)
    found = shap.Explainer(model, masker, algorithm="permutation", seed=0)(
        IMAGES[:1], max_evals=17 * 60, silent=True
    )
    want = shapley(removal, IMAGES[:1], EIGHT, 2).numpy()
    assert np.abs(found.values[0] - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("algorithm", ["permutation", "exact", "partition"])
def test_an_additive_removal_is_found_exactly(algorithm):
    removal = Additive(EIGHT)
    model, masker = lm.adapters.as_shap(removal, EIGHT, target=[4, 1], partition=algorithm == "partition")
    found = shap.Explainer(model, masker, algorithm=algorithm)(IMAGES.numpy(), silent=True)
    want = IMAGES.mean((1, 2, 3))[:, None, None] * removal.worth[:, [4, 1]]
    np.testing.assert_allclose(found.values, want, atol=1e-5)


def test_partition_of_many_segments_with_few_evaluations(removal):
    model, masker = lm.adapters.as_shap(removal, SIXTEEN, target=0, partition=True, output="probability")
    found = shap.Explainer(model, masker, algorithm="partition")(IMAGES, max_evals=20, silent=True)
    whole, nothing = (torch.tensor(x).softmax(1)[:, 0] for x in ends(removal, SIXTEEN))
    assert found.values.shape == (2, 16)
    np.testing.assert_allclose(found.values.sum(1), whole - nothing, atol=1e-6)


def test_forward_passes_hold_batch_size_masks():
    sizes = []

    def removal(images, visible):
        sizes.append(len(visible))
        return images.new_zeros(len(visible), 3)

    model, masker = lm.adapters.as_shap(removal, EIGHT, batch_size=100)
    shap.Explainer(model, masker, algorithm="exact")(IMAGES[:1], silent=True)
    assert sizes == [100, 100, 56]


def test_tree_merges_what_is_near_and_touches():
    tree = segment_tree(SIXTEEN)
    assert tree.shape == (15, 4)
    members = [{n} for n in range(16)]
    for left, right, _, count in tree:
        one, other = members[int(left)], members[int(right)]
        assert any(abs(a - b) in (1, 4) for a in one for b in other)  # neighbours on the 4x4 grid
        members.append(one | other)
        assert len(members[-1]) == count
    assert members[-1] == set(range(16))


def test_tree_keeps_apart_what_a_gap_separates():
    """Two rows of three whose ends are nearer to each other than the ends of a row, but do not touch."""
    labels = torch.tensor([[0, 0, 1, 1, 2, 2], [6, 6, 6, 6, 6, 6], [3, 3, 4, 4, 5, 5]])
    tree = segment_tree(labels)
    members = [{n} for n in range(7)]
    for left, right, *_ in tree:
        members.append(members[int(left)] | members[int(right)])
    assert {0, 3} not in members and {1, 4} not in members and {2, 5} not in members


def test_tree_of_concentric_segments():
    labels = torch.zeros(9, 9, dtype=torch.long)
    labels[2:7, 2:7], labels[4, 4] = 1, 2
    tree = segment_tree(labels)
    assert set(tree[0, :2]) in ({0, 1}, {1, 2})
    assert np.isfinite(tree).all()


BAD = [
    (
        lambda r: lm.adapters.as_shap(r, EIGHT.float()),
        "feature_mask: a label map is integers .* torch.float32",
    ),
    (
        lambda r: lm.adapters.as_shap(r, torch.zeros(4, 4, dtype=torch.long), partition=True),
        "two segments or more",
    ),
    (
        lambda r: lm.adapters.as_shap(r, EIGHT, output="p"),
        "output is 'p': choose probability, softmax, sigmoid or logit",
    ),
    (
        lambda r: shap.Explainer(*lm.adapters.as_shap(r, EIGHT), algorithm="exact")(IMAGES[0], silent=True),
        r"of shape \(16, 16\), expected \(C, 16, 16\) .* batch of images \(N, C, 16, 16\)",
    ),
    (
        lambda r: shap.Explainer(*lm.adapters.as_shap(r, EIGHT, target=5), algorithm="exact")(
            IMAGES, silent=True
        ),
        "target is \\[5\\]: the model has the classes 0 to 4",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(removal, call, message):
    with pytest.raises(InputError, match=message):
        call(removal)
