"""captum's own methods over a removal, against sums worked out by hand."""

from __future__ import annotations

import captum.attr as attr
import pytest
import torch
from adapted import (
    CLASSES,
    EIGHT,
    SEGMENTS,
    SIDE,
    Additive,
    of_segments,
    shapley,
    shown,
    small_model,
    some_images,
)
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor

import layermask as lm
from layermask.errors import InputError

# What captum says of its own loop over the images of a batch.
pytestmark = pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning")

IMAGE = some_images(1)
IMAGES = some_images(3, seed=2)


@pytest.fixture(scope="module")
def removal() -> lm.LayerMasking:
    return lm.LayerMasking(small_model())


def left_out(removal, image: Tensor, labels: Tensor, target: int) -> Tensor:
    """Return what the answer loses with each segment, one forward pass at a time."""
    every = range(int(labels.max()) + 1)
    whole = removal(image, shown(labels, list(every)))[0, target]
    rest = [removal(image, shown(labels, [n for n in every if n != out]))[0, target] for out in every]
    return whole - torch.stack(rest)


@pytest.mark.parametrize("per_eval", [1, 3, 8])
def test_feature_ablation_is_leave_one_out(removal, per_eval):
    forward, arguments = lm.adapters.as_captum(removal, IMAGE, EIGHT)
    found = attr.FeatureAblation(forward).attribute(**arguments, target=2, perturbations_per_eval=per_eval)
    assert found.shape == (1, 1, SIDE, SIDE)
    want = left_out(removal, IMAGE, EIGHT, 2)
    assert want.abs().min() > 1e-3  # so that a wrong segment would be seen
    torch.testing.assert_close(of_segments(found[0, 0], EIGHT), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("per_eval", [1, 3])
def test_feature_ablation_of_a_batch_with_segments_of_their_own(removal, per_eval):
    labels = torch.stack([EIGHT, 7 - EIGHT, SEGMENTS])
    forward, arguments = lm.adapters.as_captum(removal, IMAGES, labels[:, None])
    found = attr.FeatureAblation(forward).attribute(
        **arguments, target=[0, 3, 1], perturbations_per_eval=per_eval
    )
    for index, target in enumerate((0, 3, 1)):
        want = left_out(removal, IMAGES[index : index + 1], labels[index], target)
        torch.testing.assert_close(of_segments(found[index, 0], labels[index]), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("per_eval", [1, 5])
def test_occlusion_is_each_window_hidden(removal, per_eval):
    forward, arguments = lm.adapters.as_captum(removal, IMAGES)
    found = attr.Occlusion(forward).attribute(
        **arguments,
        sliding_window_shapes=(1, 8, 4),
        strides=(1, 8, 4),
        target=1,
        perturbations_per_eval=per_eval,
    )
    for image, scores in zip(IMAGES.split(1), found, strict=True):
        want = left_out(removal, image, EIGHT, 1)
        torch.testing.assert_close(of_segments(scores[0], EIGHT), want, atol=1e-5, rtol=0)


METHODS = {
    "ShapleyValueSampling": (attr.ShapleyValueSampling, {"n_samples": 2}),
    "KernelShap": (attr.KernelShap, {"n_samples": 60}),
}


@pytest.mark.parametrize("per_eval", [1, 4])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_additive_values_are_found_exactly(method, count, per_eval):
    removal, images = Additive(EIGHT), IMAGES[:count]
    forward, arguments = lm.adapters.as_captum(removal, images, EIGHT)
    kind, options = METHODS[method]
    torch.manual_seed(0)
    found = kind(forward).attribute(**arguments, target=4, perturbations_per_eval=per_eval, **options)
    want = images.mean((1, 2, 3))[:, None] * removal.worth[:, 4]
    for index in range(count):
        torch.testing.assert_close(of_segments(found[index, 0], EIGHT), want[index], atol=2e-5, rtol=0)


def test_shapley_values_are_those_of_the_definition(removal):
    forward, arguments = lm.adapters.as_captum(removal, IMAGE, SEGMENTS)
    found = attr.ShapleyValues(forward).attribute(**arguments, target=2, perturbations_per_eval=4)
    want = shapley(removal, IMAGE, SEGMENTS, 2)
    torch.testing.assert_close(of_segments(found[0, 0], SEGMENTS).double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("per_eval", [1, 7])
def test_lime_of_captum_is_ours(removal, per_eval):
    """The same rows, weights and ridge regression in captum's Lime and in ours."""
    ours = lm.Lime(removal, n_samples=40, kernel_width=0.3, seed=4)
    want = ours.attribute(IMAGE, target=3, feature_mask=EIGHT)
    rows = ours.rows(8)

    def in_order(mask, **unused):
        yield from rows.long().split(1)

    forward, arguments = lm.adapters.as_captum(removal, IMAGE, EIGHT, output="probability")
    lime = attr.Lime(forward, SkLearnRidge(alpha=1.0), lm.adapters.lime_similarity(0.3), in_order)
    found = lime.attribute(**arguments, target=3, n_samples=40, perturbations_per_eval=per_eval)
    torch.testing.assert_close(of_segments(found[0, 0], EIGHT).double(), want.scores[0], atol=1e-5, rtol=1e-4)


def test_lime_with_captums_own_samples_in_a_batch(removal):
    forward, arguments = lm.adapters.as_captum(removal, IMAGES, SEGMENTS)
    lime = attr.Lime(forward, SkLearnRidge(alpha=1e-3), lm.adapters.lime_similarity())
    torch.manual_seed(0)
    found = lime.attribute(**arguments, target=[2, 0, 1], n_samples=50, perturbations_per_eval=6)
    for index, target in enumerate((2, 0, 1)):
        want = left_out(removal, IMAGES[index : index + 1], SEGMENTS, target)
        scores = of_segments(found[index, 0], SEGMENTS)
        assert torch.corrcoef(torch.stack([scores, want]))[0, 1] > 0.5


def test_one_image_is_never_copied():
    seen = []

    def removal(images, visible):
        seen.append((images.data_ptr(), images.stride(0), len(visible)))
        return visible.flatten(1).float().sum(1, keepdim=True)

    forward, arguments = lm.adapters.as_captum(removal, IMAGE, EIGHT)
    attr.FeatureAblation(forward).attribute(**arguments, target=0, perturbations_per_eval=8)
    assert seen[-1] == (IMAGE.data_ptr(), 0, 8)


def test_label_maps_with_gaps_and_huggingface_outputs(removal):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    forward, arguments = lm.adapters.as_captum(lambda x, v: Output(removal(x, v)), IMAGE, 3 * EIGHT + 5)
    plain, plain_arguments = lm.adapters.as_captum(removal, IMAGE, EIGHT)
    for one, other in ((forward, arguments), (plain, plain_arguments)):
        other["found"] = attr.FeatureAblation(one).attribute(**other, target=0)
    assert torch.equal(arguments["found"], plain_arguments["found"])
    assert torch.equal(arguments["feature_mask"], plain_arguments["feature_mask"])  # no dead features


def test_volumes():
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.Flatten(2), torch.nn.AdaptiveAvgPool1d(1))
    removal = lm.LayerMasking(torch.nn.Sequential(model, torch.nn.Flatten()).eval())
    labels = torch.arange(4)[:, None, None].expand(4, 6, 6) // 2
    forward, arguments = lm.adapters.as_captum(removal, torch.randn(1, 1, 4, 6, 6), labels)
    assert attr.FeatureAblation(forward).attribute(**arguments, target=1).shape == (1, 1, 4, 6, 6)


def call_with(removal, **change):
    forward, arguments = lm.adapters.as_captum(removal, IMAGES, EIGHT)
    return attr.FeatureAblation(forward).attribute(**(arguments | change), target=0)


def gradients(removal):
    forward, arguments = lm.adapters.as_captum(removal, IMAGE)
    attr.IntegratedGradients(forward).attribute(**arguments, target=0, n_steps=2)


def saliency(removal):
    forward, arguments = lm.adapters.as_captum(removal, IMAGE)
    attr.Saliency(forward).attribute(arguments["inputs"].requires_grad_(), target=0)


BAD = [
    (saliency, "captum wants the gradient of the mask"),
    (lambda r: call_with(r, baselines=0.5), r"768 values|values other than 0 and 1 \(the first is 0.5\)"),
    (gradients, "switches features on and off"),
    (lambda r: call_with(r, additional_forward_args=None), "give it all arguments of as_captum"),
    (
        lambda r: lm.adapters.as_captum(r, IMAGE, EIGHT[:8]),
        r"of \(8, 16\), expected integers of \(16, 16\) or \(1 or 1",
    ),
    (lambda r: lm.adapters.as_captum(r, IMAGES, EIGHT.expand(2, 1, -1, -1)), r"\(3 or 1, 1, 16, 16\)"),
    (
        lambda r: lm.adapters.as_captum(r, IMAGE, EIGHT.float()),
        "feature_mask: a label map is .* torch.float32",
    ),
    (
        lambda r: lm.adapters.as_captum(r, IMAGE.long(), EIGHT),
        r"images must be a float tensor .* got torch.int64",
    ),
    (
        lambda r: lm.adapters.as_captum(r, IMAGE, EIGHT, output="logits"),
        "output is 'logits': choose",
    ),
    (lambda r: lm.adapters.lime_similarity(0), "kernel_width is 0"),
    (
        lambda r: lm.adapters.as_captum(lambda x, v: (r(x, v),), IMAGE)[0](IMAGE[:, :1] * 0),
        "answers with a tuple",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(removal, call, message):
    with pytest.raises(InputError, match=message):
        call(removal)


def test_probabilities_add_up(removal):
    forward, arguments = lm.adapters.as_captum(removal, IMAGES, output="probability")
    scores = forward(arguments["inputs"], *arguments["additional_forward_args"])
    assert scores.shape == (3, CLASSES)
    torch.testing.assert_close(scores.sum(1), torch.ones(3))
