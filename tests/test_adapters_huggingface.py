"""Image classifiers of transformers under a removal: outputs keep their type, every adapter takes them."""

from __future__ import annotations

import captum.attr as attr
import numpy as np
import pytest
import torch
import transformers

import layermask as lm
from layermask.segment.segmenters import Grid

SIDE = 32
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
CONFIGS = {
    "ResNet": {"embedding_size": 8, **STAGES, "layer_type": "basic"},
    "ConvNext": {"image_size": SIDE, "num_stages": 2, **STAGES},
    "ViT": {"image_size": SIDE, "patch_size": 8, **WIDTHS},
    "Swin": {
        "image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
        "window_size": 4,
    },
}  # fmt: skip
ATTENDING = ("ViT", "Swin")
IMAGES = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
VISIBLE = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
VISIBLE = VISIBLE.repeat_interleave(8, 2).repeat_interleave(8, 3)
SEGMENTS = Grid(16)(IMAGES)


def build(name: str, attention: str = "eager"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name], num_labels=5)
    kind = getattr(transformers, f"{name}ForImageClassification")
    return kind._from_config(config, attn_implementation=attention).eval().requires_grad_(False)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_output_keeps_its_type_and_holds_plain_tensors(name):
    model = build(name)
    options = {"output_hidden_states": True, **({"output_attentions": True} if name in ATTENDING else {})}
    plain, masked = model(IMAGES, **options), lm.LayerMasking(model)(IMAGES, VISIBLE, **options)
    assert type(masked) is type(plain) and isinstance(masked, transformers.utils.ModelOutput)
    assert list(masked) == list(plain)
    assert masked.logits.shape == (2, 5) and not torch.equal(masked.logits, plain.logits)
    assert "hidden_states" in masked and ("attentions" in masked) == (name in ATTENDING)
    for key, value in plain.items():
        ours = masked[key]
        pairs = [(value, ours)] if isinstance(value, torch.Tensor) else zip(value, ours, strict=True)
        for one, other in pairs:
            assert type(other) is torch.Tensor and other.shape == one.shape and other.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ATTENDING)
def test_either_attention_answers_alike(name, attention):
    shown = lm.LayerMasking(build(name, attention))(IMAGES, VISIBLE).logits
    eager = lm.LayerMasking(build(name))(IMAGES, VISIBLE).logits
    torch.testing.assert_close(shown, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_with_all_visible_it_is_the_plain_model(name):
    model = build(name)
    shown = lm.LayerMasking(model)(IMAGES, torch.ones_like(VISIBLE)).logits
    torch.testing.assert_close(shown, model(IMAGES).logits, atol=1e-6, rtol=1e-5)


def test_tuples_when_asked_for():
    model = build("ResNet")
    (scores,) = lm.LayerMasking(model)(IMAGES, VISIBLE, return_dict=False)
    assert torch.equal(scores, lm.LayerMasking(model)(IMAGES, VISIBLE).logits)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["LayerMasking", "Greyout"])
def test_explainers_and_adapters_read_the_logits(name, kind):
    removal = getattr(lm.removal, kind)(build(name))
    found = lm.Lime(removal, n_samples=10).attribute(IMAGES[:1], target=2, feature_mask=SEGMENTS)
    assert found.scores.shape == (1, 4) and found.scores.abs().max() > 0

    def scores(images, segments):
        visible = torch.isin(SEGMENTS, torch.tensor(segments))[None, None]
        return removal(images, visible).logits

    forward, arguments = lm.adapters.as_captum(removal, IMAGES, SEGMENTS)
    ablated = attr.FeatureAblation(forward).attribute(**arguments, target=2, perturbations_per_eval=3)
    want = scores(IMAGES, [0, 1, 2, 3])[:, 2] - scores(IMAGES, [0, 1, 3])[:, 2]
    torch.testing.assert_close(ablated[:, 0, -1, 0], want, atol=1e-5, rtol=0)

    model, masker = lm.adapters.as_shap(removal, SEGMENTS, target=2)
    rows = np.stack([masker(np.array([True, False, True, False]), x)[0][0] for x in IMAGES])
    np.testing.assert_allclose(model(rows, IMAGES.numpy()), scores(IMAGES, [0, 2])[:, 2], atol=1e-5)

    hidden = lm.adapters.mark_hidden(IMAGES, VISIBLE)
    torch.testing.assert_close(lm.adapters.NaNHidden(removal)(hidden), removal(IMAGES, VISIBLE).logits)


def test_grad_cam_of_a_hugging_face_model():
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = build("ResNet").requires_grad_()
    layer = model.resnet.encoder.stages[0]
    with GradCAM(
        model=lm.adapters.CamModel(lm.LayerMasking(model), [layer]), target_layers=[layer]
    ) as method:
        half = torch.arange(SIDE).ge(16).expand(1, 1, SIDE, SIDE)
        heat = method(lm.adapters.mark_hidden(IMAGES, half), [ClassifierOutputTarget(1)] * 2)
    assert heat.max() > 0.9 and (heat[..., :4] == 0).all()
