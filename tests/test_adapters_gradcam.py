"""pytorch-grad-cam's own methods through a layer-masked model, and its ROAD metrics with our removals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from adapted import SIDE, small_model, some_images
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import layermask as lm
from layermask.core.masked import zero_hidden
from layermask.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as cams

IMAGES = some_images(2)
TARGETS = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
HALF = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
HALF[..., :8] = False  # the left half hidden
MODEL = small_model().requires_grad_()
LAYER = MODEL[4]  # (N, 12, 8, 8)
REMOVAL = lm.LayerMasking(MODEL)
ALL = ["GradCAM", "GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM", "EigenCAM", "EigenGradCAM"]
ALL += ["ScoreCAM", "GradCAMElementWise"]
OF_ZEROS = [name for name in ALL if "Eigen" not in name]  # those centre the activations, hidden ones too


def through(name: str, images, model=None, layer=LAYER):
    model = lm.adapters.CamModel(REMOVAL, [layer]) if model is None else model
    with getattr(cams, name)(model=model, target_layers=[layer]) as method:
        heat = method(images, TARGETS)
        hooked = method.activations_and_grads  # emptied when the block ends
        return heat, list(hooked.activations), list(hooked.gradients)


@pytest.mark.parametrize("name", ALL)
def test_of_whole_images_the_maps_are_those_of_the_plain_model(name):
    found, plain = through(name, IMAGES)[0], through(name, IMAGES, MODEL)[0]
    assert plain.max() > 0.9 and plain.std() > 0.05
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("name", OF_ZEROS)
def test_a_hidden_position_adds_nothing(name):
    """The last visible column of the layer is its fourth: from there on the map is enlarged to the image."""
    heat, activations, gradients = through(name, lm.adapters.mark_hidden(IMAGES, HALF))
    assert (heat[..., :5] == 0).all() and heat[..., 8:].max() > 0.1
    assert (activations[0][..., :3] == 0).all() and activations[0][..., 3:].any()
    assert name == "ScoreCAM" or ((gradients[0][..., :3] == 0).all() and gradients[0][..., 3:].any())


def test_grad_cam_by_hand():
    """Eq. 1 and 2 of Selvaraju et al. 2017, on the values and gradients of the masked layer."""
    kept = []

    def keep(module, args, output):
        kept.append(output)
        output.value.retain_grad()

    handle = LAYER.register_forward_hook(keep)
    REMOVAL(IMAGES, HALF.expand(2, -1, -1, -1))[[0, 1], [1, 3]].sum().backward()
    handle.remove()
    weights = kept[0].value.grad.mean((2, 3), keepdim=True)
    want = (weights * zero_hidden(kept[0])).sum(1).relu()
    want = want / want.amax((1, 2), keepdim=True)
    found, activations, gradients = through("GradCAM", lm.adapters.mark_hidden(IMAGES, HALF))
    small = (activations[0] * gradients[0].mean((2, 3), keepdim=True)).sum(1).relu()
    torch.testing.assert_close(small / small.amax((1, 2), keepdim=True), want, atol=1e-6, rtol=0)
    enlarged = nn.functional.interpolate(want[:, None].detach(), (SIDE, SIDE), mode="bilinear")[:, 0]
    np.testing.assert_allclose(found, enlarged / enlarged.amax((1, 2), keepdim=True), atol=1e-5)


def test_what_is_hidden_changes_no_map():
    noise = torch.where(HALF, IMAGES, some_images(2, seed=9))
    one, other = (through("GradCAM", lm.adapters.mark_hidden(x, HALF))[0] for x in (IMAGES, noise))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - through("GradCAM", IMAGES)[0]).max() > 0.1


def test_the_hooks_do_not_change_the_answer_and_are_gone_afterwards():
    before = REMOVAL(IMAGES, HALF)
    model = lm.adapters.CamModel(REMOVAL, [MODEL[2], LAYER])
    assert torch.equal(model(lm.adapters.mark_hidden(IMAGES, HALF)), before)
    seen = []
    handle = LAYER.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(lm.adapters.mark_hidden(IMAGES, HALF))
        REMOVAL(IMAGES, HALF)
    handle.remove()
    assert isinstance(seen[0], torch.Tensor) and isinstance(seen[1], lm.Masked)
    assert not LAYER._forward_hooks


@pytest.mark.parametrize("options", [{"fill": "zero"}, {"growth": "center"}, {"until": "2"}])
def test_the_options_of_the_removal_hold_beyond_the_hooks(options):
    removal = lm.LayerMasking(MODEL, **options)
    model = lm.adapters.CamModel(removal, [MODEL[0], MODEL[2]])
    assert not torch.equal(removal(IMAGES, HALF), REMOVAL(IMAGES, HALF))
    assert torch.equal(model(lm.adapters.mark_hidden(IMAGES, HALF)), removal(IMAGES, HALF))


class Attention(nn.Module):
    """Softmax weights by a module of their own, on which a hook may be."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return (self.softmax(x @ x.transpose(1, 2)) @ x).mean(1)


@pytest.mark.parametrize(
    ("model", "hooked"),
    [
        (
            nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            lambda m: m[0],
        ),
        (nn.Sequential(nn.AvgPool2d(4), Attention()), lambda m: m[1].softmax),
    ],
    ids=["padding", "softmax"],
)
def test_what_else_a_masked_value_carries_survives_the_hooks(model, hooked):
    removal = lm.LayerMasking(model.eval())
    answer = lm.adapters.CamModel(removal, [hooked(model)])(lm.adapters.mark_hidden(IMAGES, HALF))
    assert torch.equal(answer, removal(IMAGES, HALF))


def test_several_layers_at_once():
    layers = [MODEL[1], LAYER]
    with cams.GradCAM(model=lm.adapters.CamModel(REMOVAL, layers), target_layers=layers) as method:
        heat = method(lm.adapters.mark_hidden(IMAGES, HALF), TARGETS)
    assert heat.shape == (2, SIDE, SIDE) and (heat[..., :5] == 0).all()


def test_tokens_of_a_vision_transformer():
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ).eval()
    layer = vit.blocks[-1].norm1
    model = lm.adapters.CamModel(lm.LayerMasking(vit), [layer])

    def as_map(tokens):
        return tokens[:, 1:].unflatten(1, (4, 4)).movedim(-1, 1)

    with cams.GradCAM(model=model, target_layers=[layer], reshape_transform=as_map) as method:
        heat = method(lm.adapters.mark_hidden(IMAGES, HALF), TARGETS)
        activation = method.activations_and_grads.activations[0]
    assert activation.shape == (2, 16, 4, 4) and (activation[..., :2] == 0).all()
    assert (heat[..., :6] == 0).all() and heat.max() > 0.9


SCORES = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(8)).numpy()
NAMES = ["LayerMasking", "Greyout"]


def removed(removal, keep):
    """Return the change of the explained scores when only `keep` (N, H, W) is shown."""
    with torch.no_grad():
        whole, rest = MODEL(IMAGES), removal(IMAGES, torch.tensor(keep)[:, None])
    return (rest - whole)[[0, 1], [1, 3]].numpy()


def most(removal, percentile):
    limits = [np.percentile(scores, percentile) for scores in SCORES]
    return removed(removal, np.stack([s < limit for s, limit in zip(SCORES, limits, strict=True)]))


def least(removal, percentile):
    limits = [np.percentile(1 - scores, percentile) for scores in SCORES]
    return removed(removal, np.stack([1 - s < limit for s, limit in zip(SCORES, limits, strict=True)]))


ROAD = {
    "most": (road.ROADMostRelevantFirst(70), lambda r: most(r, 70)),
    "least": (road.ROADLeastRelevantFirst(20), lambda r: least(r, 20)),
    "average": (road.ROADMostRelevantFirstAverage([30, 60]), lambda r: (most(r, 30) + most(r, 60)) / 2),
    "combined": (
        road.ROADCombined([30, 60]),
        lambda r: (least(r, 30) + least(r, 60) - most(r, 30) - most(r, 60)) / 4,
    ),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", ROAD)
def test_road_with_our_removals(name, kind):
    removal = getattr(lm.removal, kind)(MODEL)
    metric, want = ROAD[name]
    found = lm.adapters.as_road(metric)(IMAGES, SCORES, TARGETS, lm.adapters.NaNHidden(removal))
    assert np.abs(want(removal)).min() > 1e-3
    np.testing.assert_allclose(found, want(removal), atol=1e-5)


@pytest.mark.parametrize("name", ROAD)
def test_road_painting_as_a_removal_does(name):
    """Also removals that must see what they hide; the model asked is then the plain one."""
    metric, want = ROAD[name]
    for removal in (lm.removal.Greyout(MODEL), lm.removal.BlurFill(MODEL, kernel_size=5, sigma=2.0)):
        found = lm.adapters.as_road(metric, removal)(IMAGES, SCORES, TARGETS, MODEL)
        np.testing.assert_allclose(found, want(removal), atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # their own imputer
@pytest.mark.parametrize("name", ROAD)
def test_the_metric_given_is_left_as_it_was(name):
    metric = ROAD[name][0]
    lm.adapters.as_road(metric)(IMAGES, SCORES, TARGETS, lm.adapters.NaNHidden(REMOVAL))
    torch.manual_seed(0)
    imputed = metric(IMAGES, SCORES, TARGETS, MODEL)
    assert np.isfinite(imputed).all()


def test_bad_input():
    with pytest.raises(InputError, match="object has no imputer: give a ROAD metric"):
        lm.adapters.as_road(object())
    with pytest.raises(InputError, match=r"paints nothing: leave it out here, .* NaNHidden\(removal\)"):
        lm.adapters.as_road(road.ROADMostRelevantFirst(50), REMOVAL)
    with pytest.raises(InputError, match="target layer ReLU is no module of the removal's model"):
        lm.adapters.CamModel(REMOVAL, [nn.ReLU()])
