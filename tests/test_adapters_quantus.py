"""Quantus' own metrics with a removal: painting in their perturb_func, or with NaN for what is hidden."""

from __future__ import annotations

from itertools import product
from math import nan

import numpy as np
import pytest
import quantus
import torch
from adapted import SIDE, small_model, some_images
from fitting import made
from torch import nn

import layermask as lm
from layermask.core.masked import zero_hidden
from layermask.errors import InputError
from layermask.removal.painting import PixelFill
from layermask.removal.registry import REMOVALS as TABLE
from layermask.zoo.preprocessing import Preprocessing

MODEL = small_model()
IMAGES = some_images(2)
Y = np.array([1, 3])
SCORES = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).expand_as(IMAGES).numpy()
QUIET = {"disable_warnings": True}


def ask(metric, model, scores=SCORES):
    np.random.seed(0)
    return metric(model, IMAGES.numpy(), Y, scores, softmax=False, device="cpu")


def flipped(removal, step: int) -> np.ndarray:
    """Return the curves of pixel flipping, by masks: after each `step` entries, the most relevant first."""
    order = np.argsort(-SCORES.reshape(2, -1), axis=1)
    curves = []
    for stop in range(step, order.shape[1] + 1, step):
        named = torch.zeros(2, order.shape[1], dtype=torch.bool).scatter(
            1, torch.tensor(order[:, :stop]), True
        )
        visible = ~named.view_as(IMAGES).any(1, keepdim=True)
        curves.append(removal(IMAGES, visible)[[0, 1], Y].numpy())
    return np.stack(curves, 1)


REMOVALS = {"layers": lm.LayerMasking(MODEL), "grey": lm.removal.Greyout(MODEL)}


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
def test_pixel_flipping_hides_more_and_more(removal):
    metric = quantus.PixelFlipping(features_in_step=64, perturb_func=lm.adapters.write_nan, **QUIET)
    found = ask(metric, lm.adapters.NaNHidden(removal))
    want = flipped(removal, 64)
    assert np.ptp(want, axis=1).min() > 0.1
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_pixel_flipping_with_a_painting_perturb_func():
    grey = REMOVALS["grey"]
    metric = quantus.PixelFlipping(
        features_in_step=64, perturb_func=lm.adapters.as_perturb_func(grey, IMAGES.shape[1:]), **QUIET
    )
    np.testing.assert_allclose(ask(metric, MODEL), flipped(grey, 64), atol=1e-5)


def test_region_perturbation_hides_whole_patches():
    """Patches, most relevant first, by layer masking; patches of 6 leave a rest that Quantus pads."""
    removal = REMOVALS["layers"]
    metric = quantus.RegionPerturbation(
        patch_size=6, regions_evaluation=4, perturb_func=lm.adapters.write_nan, **QUIET
    )
    found = ask(metric, lm.adapters.NaNHidden(removal))
    whole = removal(IMAGES, torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool))[[0, 1], Y]
    spans = [slice(0, 5), slice(5, 11), slice(11, 16)]  # Quantus pads 16 to 18 by one on either side
    cells = list(product(spans, spans))
    for index in range(2):
        order = sorted(cells, key=lambda cell: -SCORES[index, 0][cell].sum())
        visible = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
        for step, cell in enumerate(order[:4]):
            visible[0, 0][cell] = False
            rest = removal(IMAGES[index : index + 1], visible)[0, Y[index]]
            np.testing.assert_allclose(found[index][step], whole[index] - rest, atol=1e-5)


METRICS = {
    "correlation": lambda f: quantus.FaithfulnessCorrelation(
        nr_runs=8, subset_size=60, return_aggregate=False, perturb_func=f, **QUIET
    ),
    "selectivity": lambda f: quantus.Selectivity(patch_size=4, perturb_func=f, **QUIET),
    "estimate": lambda f: quantus.FaithfulnessEstimate(features_in_step=64, perturb_func=f, **QUIET),
    "sensitivity": lambda f: quantus.SensitivityN(
        features_in_step=64, n_max_percentage=0.9, perturb_func=f, **QUIET
    ),
    "regions": lambda f: quantus.RegionPerturbation(
        patch_size=4, regions_evaluation=5, perturb_func=f, **QUIET
    ),
    "road": lambda f: quantus.ROAD(percentages=[20, 50, 80], perturb_func=f, **QUIET),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_both_ways_agree_where_the_fill_is_constant(metric):
    """Grey painted by the perturb_func, and grey painted by the removal at what the perturb_func marked."""
    grey = REMOVALS["grey"]
    painted = ask(metric(lm.adapters.as_perturb_func(grey, IMAGES.shape[1:])), MODEL)
    marked = ask(metric(lm.adapters.write_nan), lm.adapters.NaNHidden(grey))
    masked = ask(metric(lm.adapters.write_nan), lm.adapters.NaNHidden(REMOVALS["layers"]))
    painted, marked, masked = (
        np.array(list(x.values()) if isinstance(x, dict) else x) for x in (painted, marked, masked)
    )
    np.testing.assert_allclose(marked, painted, atol=1e-5)
    assert np.isfinite(masked).all() and masked.shape == painted.shape


def test_a_number_serves_as_well():
    """Quantus' own function writes a baseline of NaN, where it is not at fault itself (IROF, ROAD)."""
    model = lm.adapters.NaNHidden(REMOVALS["layers"])
    own = quantus.PixelFlipping(features_in_step=64, perturb_baseline=nan, **QUIET)
    ours = quantus.PixelFlipping(features_in_step=64, perturb_func=lm.adapters.write_nan, **QUIET)
    np.testing.assert_array_equal(ask(own, model), ask(ours, model))


def test_a_channel_named_hides_its_pixel():
    """Not only its red: the fault that other tools had."""
    paint = lm.adapters.as_perturb_func(REMOVALS["grey"], (3, SIDE, SIDE))
    flat = IMAGES.numpy().reshape(2, -1)
    out = paint(arr=flat, indices=np.array([[5], [SIDE * SIDE + 7]]), perturb_baseline="black")
    changed = (out != flat).reshape(2, 3, -1)
    assert changed.sum() == 6 and changed[0, :, 5].all() and changed[1, :, 7].all()
    assert out.dtype == flat.dtype and out.shape == flat.shape
    visible = ~torch.tensor(lm.adapters.write_nan(flat, np.array([[5], [7]]))).view_as(IMAGES).isnan()
    seen = []
    lm.adapters.NaNHidden(lambda x, v: seen.append(v) or x.mean((2, 3)))(torch.where(visible, IMAGES, nan))
    assert torch.equal(seen[0], visible.all(1, keepdim=True))


def test_masks_as_irof_passes_them():
    mask = np.zeros((2, 1, SIDE, SIDE), dtype=bool)
    mask[:, :, :4] = True
    out = lm.adapters.write_nan(IMAGES.numpy(), mask=mask)
    assert np.isnan(out[:, :, :4]).all() and np.array_equal(out[:, :, 4:], IMAGES.numpy()[:, :, 4:])
    grey = REMOVALS["grey"]
    painted = lm.adapters.as_perturb_func(grey, IMAGES.shape[1:])(IMAGES.numpy(), mask=mask)
    np.testing.assert_array_equal(painted, grey.fill(IMAGES, torch.tensor(~mask)).numpy())


@pytest.mark.parametrize("name", [name for name in TABLE if name != "tokendrop"])  # of transformers
def test_every_removal_of_the_table(name):
    """Marked by NaN or painting in Quantus, whichever a removal can do, it is what the removal does."""
    kind, visible = TABLE[name], TestNaNHidden.visible
    if kind.extra:
        pytest.importorskip("cv2")
    segments = torch.arange(SIDE).expand(SIDE, -1) // 4
    removal = made(name, MODEL, Preprocessing(), segments, tuple(IMAGES.shape[1:]))
    want = removal(IMAGES, visible)
    if kind.reads_hidden:
        with pytest.raises(InputError, match="paints from what hidden pixels held"):
            lm.adapters.NaNHidden(nn.Sequential(removal))
    else:
        assert torch.equal(lm.adapters.NaNHidden(removal)(lm.adapters.mark_hidden(IMAGES, visible)), want)
    if isinstance(removal, PixelFill):
        paint = lm.adapters.as_perturb_func(removal, IMAGES.shape[1:])
        painted = torch.tensor(paint(IMAGES.numpy(), mask=~visible.numpy()))
        assert torch.equal(MODEL(painted), want)


def test_the_callers_array_is_left_alone():
    flat = IMAGES.numpy().reshape(2, -1).copy()
    lm.adapters.write_nan(flat, np.array([[5], [7]]))
    lm.adapters.as_perturb_func(REMOVALS["grey"], (3, SIDE, SIDE))(flat, np.array([[5], [7]]))
    assert np.array_equal(flat, IMAGES.numpy().reshape(2, -1))


class TestNaNHidden:
    visible = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(6)) < 0.6

    @pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
    def test_is_the_removal_of_what_is_marked(self, removal):
        marked = lm.adapters.mark_hidden(IMAGES, self.visible)
        assert torch.equal(lm.adapters.NaNHidden(removal)(marked), removal(IMAGES, self.visible))

    def test_of_a_whole_image_is_the_plain_model(self):
        assert torch.equal(lm.adapters.NaNHidden(REMOVALS["layers"])(IMAGES), MODEL(IMAGES))

    def test_a_gap_in_one_band_hides_the_pixel(self):
        gap = IMAGES.clone()
        gap[:, 1][~self.visible[:, 0]] = nan
        removal = REMOVALS["layers"]
        assert torch.equal(lm.adapters.NaNHidden(removal)(gap), removal(IMAGES, self.visible))

    def test_gradient_is_zero_where_hidden(self):
        marked = lm.adapters.mark_hidden(IMAGES, self.visible).requires_grad_()
        lm.adapters.NaNHidden(REMOVALS["layers"])(marked).square().sum().backward()
        hidden = (~self.visible).expand_as(IMAGES)
        assert (marked.grad[hidden] == 0).all() and (marked.grad[~hidden] != 0).any()

    def test_nan_reaches_no_removal(self):
        assert lm.adapters.NaNHidden(lambda x, v: x.mean((2, 3)))(torch.full_like(IMAGES, nan)).eq(0).all()

    def test_takes_the_mode_of_the_model_inside(self):
        grey = lm.removal.Greyout(small_model())
        assert not lm.adapters.NaNHidden(grey).training and not lm.adapters.NaNHidden(lambda x, v: x).training
        assert lm.adapters.NaNHidden(lm.removal.Greyout(small_model().train())).training

    def test_unwraps_logits(self):
        class Wrapped(nn.Module):
            def forward(self, x):
                return {"loss": None} if x is None else type("Out", (), {"logits": MODEL(x)})()

        out = lm.adapters.NaNHidden(lm.removal.Greyout(Wrapped()))(IMAGES)
        assert torch.equal(out, MODEL(IMAGES))


def test_settled_is_what_hooks_get():
    """`mark_hidden` and `zero_hidden` are each other's inverse on what is visible."""
    visible = TestNaNHidden.visible
    marked = lm.adapters.mark_hidden(IMAGES, visible)
    assert torch.equal(marked.isnan(), (~visible).expand_as(IMAGES))
    assert torch.equal(zero_hidden(lm.Masked(marked, visible)), torch.where(visible, IMAGES, 0))


BAD = [
    (lambda: lm.adapters.as_perturb_func(REMOVALS["layers"], (3, 8, 8)), "LayerMasking has no fill"),
    (
        lambda: ask(
            quantus.RegionPerturbation(
                patch_size=6,
                perturb_func=lm.adapters.as_perturb_func(REMOVALS["grey"], (3, SIDE, SIDE)),
                **QUIET,
            ),
            MODEL,
        ),
        r"array of \(2, 972\) for images \(3, 16, 16\): a patch_size that does not divide",
    ),
    (
        lambda: lm.adapters.mark_hidden(IMAGES, torch.ones(2, 3, SIDE, SIDE)),
        r"of shape \(2, 1, 16, 16\) or \(1, 1,",
    ),
    (
        lambda: lm.adapters.mark_hidden(IMAGES, torch.full((1, 1, SIDE, SIDE), 0.5)),
        "holds 256 values other",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
