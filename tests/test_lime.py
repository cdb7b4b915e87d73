"""LIME against the package it follows, and what makes its runs comparable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lime.lime_base import LimeBase
from sklearn.metrics import pairwise_distances
from torch import Tensor

from layermask.errors import InputError
from layermask.explain.lime import Lime
from layermask.explain.regression import Moments, ridge
from layermask.removal.registry import removal
from layermask.segment.segmenters import Grid

SIDE, CELL, CLASSES = 24, 6, 7


class Probe:
    """A removal whose answer is a known function of the visible cells, and that notes what it is given."""

    def __init__(self, seed: int = 0, scale: float = 1.0):
        generator = torch.Generator().manual_seed(seed)
        self.weight = scale * torch.randn(16, CLASSES, generator=generator)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, images: Tensor, visible: Tensor) -> Tensor:
        self.calls.append((images, visible))
        share = torch.nn.functional.avg_pool2d(visible.float(), CELL).flatten(1)
        return share @ self.weight + images.mean((1, 2, 3))[:, None] * torch.arange(CLASSES)


IMAGE = torch.linspace(0, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)
SEGMENTS = Grid(CELL)(IMAGE)


def package(rows: Tensor, probabilities: Tensor, target: int, width: float, alpha: float):
    """Explain the same rows with the package `lime`, all features kept."""
    from sklearn.linear_model import Ridge

    data = rows.numpy().astype(int)
    distances = pairwise_distances(data, data[:1], metric="cosine").ravel()
    base = LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / width**2)))
    intercept, pairs, score, _ = base.explain_instance_with_data(
        data, probabilities.numpy(), distances, target, 10**6, "none", Ridge(alpha=alpha)
    )
    coefficients = np.zeros(data.shape[1])
    coefficients[[index for index, _ in pairs]] = [value for _, value in pairs]
    return coefficients, intercept, score


@pytest.mark.filterwarnings("ignore:LIME. n_samples is 12")
@pytest.mark.parametrize(("samples", "width", "alpha"), [(1000, 0.25, 1.0), (50, 0.5, 0.1), (12, 0.25, 1.0)])
def test_scores_intercept_and_r2_are_the_packages(samples, width, alpha):
    probe = Probe()
    explainer = Lime(
        probe, n_samples=samples, kernel_width=width, alpha=alpha, seed=3, perturbations_per_eval=64
    )
    found = explainer.attribute(IMAGE, target=[1, 4], feature_mask=SEGMENTS)
    rows = explainer.rows(16)
    masks = torch.stack([torch.isin(SEGMENTS, row.nonzero()) for row in rows])[:, None]
    probabilities = Probe()(IMAGE, masks).softmax(1).double()
    for index, target in enumerate((1, 4)):
        scores, intercept, r2 = package(rows, probabilities, target, width, alpha)
        np.testing.assert_allclose(found.scores[index], scores, atol=1e-6, rtol=0)
        assert abs(float(found.intercept[index]) - intercept) < 1e-6
        assert abs(float(found.r2[index]) - r2) < 1e-6
        assert abs(float(found.prediction[index]) - float(probabilities[0, target])) < 1e-6


def test_a_row_that_hides_everything_is_at_distance_one():
    rows = torch.tensor([[True, True], [True, False], [False, False]])
    want = pairwise_distances(rows.numpy().astype(float), np.ones((1, 2)), metric="cosine").ravel()
    assert want[2] == 1
    weights = Lime(Probe()).weights(rows)
    np.testing.assert_allclose(weights, np.sqrt(np.exp(-(want**2) / 0.25**2)), atol=1e-12)


def test_a_linear_model_is_found_again():
    probe = Probe(scale=0.5)
    found = Lime(probe, alpha=1e-6, output="logit").attribute(IMAGE, target=2, feature_mask=SEGMENTS)
    torch.testing.assert_close(found.scores[0], probe.weight[:, 2].double(), atol=1e-4, rtol=0)
    assert float(found.r2[0]) > 0.999999
    assert torch.equal(found.heatmap()[:CELL, :CELL], found.scores[0, 0].expand(CELL, CELL))


def test_the_same_seed_shows_every_removal_the_same_masks():
    seen = []
    for batch_size, probe in ((7, Probe(1)), (1000, Probe(2))):
        Lime(probe, n_samples=40, seed=5, perturbations_per_eval=batch_size).attribute(IMAGE, 0, SEGMENTS)
        seen.append(torch.cat([visible for _, visible in probe.calls]))
    assert torch.equal(*seen)
    assert seen[0][0].all()
    assert not torch.equal(Lime(Probe(), 40, seed=5).rows(16), Lime(Probe(), 40, seed=6).rows(16))


def test_scores_do_not_depend_on_the_batch_size():
    found = [
        Lime(Probe(), 40, perturbations_per_eval=size).attribute(IMAGE, [0, 1], SEGMENTS)
        for size in (1, 13, 400)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.scores, found[0].scores, atol=1e-6, rtol=0)


def test_one_image_is_expanded_and_never_copied():
    probe = Probe()
    Lime(probe, n_samples=100, perturbations_per_eval=32).attribute(IMAGE, 0, SEGMENTS)
    assert [len(visible) for _, visible in probe.calls] == [1, 32, 32, 32, 4]  # the whole picture first
    for images, visible in probe.calls[1:]:
        assert images.data_ptr() == IMAGE.data_ptr()
        assert len(images) == 1
        assert visible.dtype == torch.bool
        assert visible.shape == (len(visible), 1, SIDE, SIDE)


def test_batches_span_images_and_agree_with_one_by_one():
    images = torch.cat([IMAGE, IMAGE.flip(3), 2 * IMAGE])
    masks = [SEGMENTS, Grid(12)(IMAGE), Grid(8)(IMAGE)]
    probe = Probe()
    explainer = Lime(probe, n_samples=50, perturbations_per_eval=40)
    together = explainer.attribute_batch(images, [0, [1, 2], 3], masks)
    assert [len(visible) for _, visible in probe.calls] == [3, 40, 40, 40, 30]
    for image, target, mask, found in zip(images.split(1), [0, [1, 2], 3], masks, together, strict=True):
        alone = explainer.attribute(image, target, mask)
        assert found.targets == alone.targets
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.r2, alone.r2, atol=1e-5, rtol=0)


def test_the_default_targets_are_the_two_most_likely():
    top = Probe()(IMAGE, torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)).topk(2).indices[0]
    assert Lime(Probe(), 40).attribute(IMAGE, feature_mask=SEGMENTS).targets == tuple(top.tolist())


def test_a_wrapped_output_and_a_label_map_with_gaps():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    probe = Probe()
    plain = Lime(probe, 40).attribute(IMAGE, 0, SEGMENTS)
    with pytest.warns(UserWarning, match="16 labels from 5 to 50: relabelled 0 to 15"):
        wrapped = Lime(lambda *x: Output(probe(*x)), 40).attribute(IMAGE, 0, 3 * SEGMENTS + 5)
    assert torch.equal(plain.scores, wrapped.scores)


def test_progress_counts_every_sample():
    done = []
    Lime(Probe(), 50, perturbations_per_eval=20).attribute(IMAGE, 0, SEGMENTS, show_progress=done.append)
    assert done == [20, 20, 10]


def test_progress_bar(capsys):
    Lime(Probe(), 50).attribute(IMAGE, 0, SEGMENTS, show_progress=True)
    assert "50/50" in capsys.readouterr().err


def test_no_gradient_is_kept():
    image = IMAGE.clone().requires_grad_()
    assert not Lime(Probe(), 40).attribute(image, 0, SEGMENTS).scores.requires_grad


def test_ridge_of_a_constant():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.double)
    moments = Moments(2, 1)
    moments.add(rows, torch.full((3, 1), 0.5, dtype=torch.double), torch.ones(3, dtype=torch.double))
    fit = ridge(moments, 1.0)
    assert fit.r2.tolist() == [1.0]
    assert fit.coefficients.abs().max() < 1e-15
    assert fit.intercept.tolist() == pytest.approx([0.5])


@torch.no_grad()
def test_real_model_marks_what_it_looks_at(builtin, picture):
    """On the photograph: hiding what supports a class costs it more than hiding what detracts."""
    x = builtin.preprocessing(picture)
    operator = removal("layermask", builtin.model, builtin.preprocessing)
    found = Lime(operator, n_samples=100).attribute(x, feature_mask=Grid(56)(x))
    assert found.targets == (282, 285)
    assert found.scores.shape == (2, 16)
    assert found.scores.isfinite().all()
    for row, target in enumerate(found.targets):
        order = found.scores[row].argsort()
        chance = []
        for hidden in (order[-4:], order[:4]):
            visible = ~torch.isin(found.segments, hidden)[None, None]
            chance.append(operator(x, visible).softmax(1)[0, target].item())
        assert chance[0] < 0.8 * chance[1]


BAD = [
    (lambda: Lime(Probe(), n_samples=0), "n_samples is 0: give 1 or more"),
    (lambda: Lime(Probe(), alpha=-1.0), "alpha is -1.0: give a number above 0"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE[0], 0, SEGMENTS), r"expected one image .* got \(3, 24, 24\)"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE, 0), r"give a feature_mask \(24, 24\)"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE, 0, SEGMENTS[:8]), r"\(8, 24\) and the image \(24, 24\)"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE.long(), 0, SEGMENTS), "image must be a float tensor"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE, 7, SEGMENTS), "the model has the classes 0 to 6"),
    (lambda: Lime(Probe(), 40).attribute(IMAGE, -1, SEGMENTS), "the model has the classes 0 to 6"),
    (
        lambda: Lime(Probe(), 40).attribute_batch(torch.cat([IMAGE] * 2), [0], [SEGMENTS] * 2),
        "1 targets for 2 images",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
