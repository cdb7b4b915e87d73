"""Detectors of torchvision and transformers: laws 1 and 2 of the boxes they answer with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layermask as lm
from layermask._private_torch import tree_leaves

detection = pytest.importorskip("torchvision.models.detection")
SIZES = {"min_size": 64, "max_size": 96, "weights": None, "weights_backbone": None}
FEW = {"score_thresh": 0.001, "topk_candidates": 40, "detections_per_img": 10}
STAGES = {
    "box_score_thresh": 0.001, "box_detections_per_img": 10,
    "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20,
}  # fmt: skip
DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "fasterrcnn": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(num_classes=4, **SIZES, **STAGES),
    "maskrcnn": lambda: detection.maskrcnn_resnet50_fpn(num_classes=4, **SIZES, **STAGES),
    "keypointrcnn": lambda: detection.keypointrcnn_resnet50_fpn(num_keypoints=3, **SIZES, **STAGES),
    "retinanet": lambda: detection.retinanet_resnet50_fpn(num_classes=4, **SIZES, **FEW),
    "fcos": lambda: detection.fcos_resnet50_fpn(num_classes=4, **SIZES, **FEW),
    "ssdlite": lambda: detection.ssdlite320_mobilenet_v3_large(
        num_classes=4, weights=None, weights_backbone=None, **FEW
    ),
}
QUICK = ("fasterrcnn", "retinanet", "ssdlite")
CASES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in DETECTORS]


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = DETECTORS[name]().eval()
    for p in model.parameters():
        if p.ndim == 1 and not p.any():
            nn.init.normal_(p, std=0.1)
    return model


def pictures() -> tuple[Tensor, Tensor]:
    x = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    visible = torch.ones(2, 1, 64, 80, dtype=torch.bool)
    visible[..., :40] = False
    return x, visible


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    return bool(pairs) and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_hidden_pixels_move_no_box(name: str) -> None:
    model, (x, half) = built(name), pictures()
    before = dict(model.named_modules())
    removal = lm.LayerMasking(model, engine="dense")
    whole = removal(list(x), [torch.ones_like(m) for m in half])
    assert len(whole[0]["boxes"]) > 0 and same(whole, model(list(x))), "all visible: torchvision's own answer"
    part = removal(list(x), list(half))
    assert same(removal(list(torch.where(half, x, torch.nan)), list(half)), part) and not same(
        part[0]["scores"], whole[0]["scores"]
    )
    assert not len(removal(list(x), list(half & False))[0]["boxes"]), "nothing visible, nothing found"
    assert all(module is before[key] for key, module in model.named_modules()), "the model is as it was"


@torch.no_grad()
def test_images_of_several_sizes_are_a_list() -> None:
    removal, (x, half) = lm.LayerMasking(built("retinanet"), engine="dense"), pictures()
    images, masks = [x[0], x[1, :, :48, 8:]], [half[0], half[1, :, :48, 8:]]
    out = removal(images, masks)
    noisy = [torch.where(m, i, torch.nan) for i, m in zip(images, masks, strict=True)]
    assert len(out) == 2 and same(removal(noisy, masks), out)
    assert same(removal(images, [torch.ones_like(m) for m in masks]), removal.model(images))
    for wrong in (masks[:1], half, [masks[0], masks[0]]):
        with pytest.raises(ValueError, match="visible"):
            removal(images, wrong)
    with pytest.raises(ValueError, match="list"):
        removal([], [])


class Scores(nn.Module):
    """The scores of the likeliest boxes, as many for every image."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        found = [each["scores"] for each in self.detector(list(images))]
        return torch.stack([torch.cat([x, x.new_zeros(10 - len(x))]) for x in found])


def test_check_runs_a_detector_as_its_removal_does() -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    report = lm.check.check(Scores(built("ssdlite")), images, ("2",))
    assert report.ok and report.ops["torchvision.nms"] == 4


# --- of transformers, from tiny random configurations -------------------------------------------------------

T = pytest.importorskip("transformers")
RESNET = {
    "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
LAYERS = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 6,
}  # fmt: skip
HYBRID = {
    "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "feat_strides": [8, 16, 32],
    "decoder_in_channels": [32, 32, 32], "num_denoising": 0, "hidden_expansion": 0.5,
}  # fmt: skip


def _detr(family: str) -> nn.Module:
    config = getattr(T, f"{family}Config")(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=T.ResNetConfig(**RESNET), num_labels=4, **LAYERS,
    )  # fmt: skip
    return getattr(T, f"{family}ForObjectDetection")(config)


def _hybrid(family: str) -> nn.Module:
    backbone = T.RTDetrResNetConfig(**RESNET)
    config = getattr(T, f"{family}Config")(backbone_config=backbone, num_labels=4, **LAYERS, **HYBRID)
    return getattr(T, f"{family}ForObjectDetection")(config)


def _yolos() -> nn.Module:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = T.YolosConfig(image_size=[64, 64], patch_size=16, num_detection_tokens=5, num_labels=4, **size)
    return T.YolosForObjectDetection(config)


def _windowed() -> nn.Module:
    """It writes the likeliest boxes into tensors that it makes."""
    backbone = T.RfDetrDinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=8,
        num_windows=2, out_features=["stage1", "stage2"],
    )  # fmt: skip
    layers = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "num_queries": 6, "group_detr": 1}
    heads = {"decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4}
    config = T.RfDetrConfig(backbone_config=backbone, num_labels=4, **layers, **heads)
    return T.RfDetrForObjectDetection(config)


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "RF-DETR": _windowed,
    "DETR": lambda: _detr("Detr"),
    "deformable DETR": lambda: _detr("DeformableDetr"),
    "conditional DETR": lambda: _detr("ConditionalDetr"),
    "RT-DETR": lambda: _hybrid("RTDetr"),
    "YOLOS": _yolos,
}


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_hidden_pixels_move_no_box_of_a_transformer(name: str) -> None:
    torch.manual_seed(0)
    model = TRANSFORMERS[name]().eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    half = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    half[..., :32] = False
    plain = model(x)
    for engine in ("dense", "sparse"):
        removal = lm.LayerMasking(model, engine=engine)
        whole, part = removal(x, torch.ones_like(half)), removal(x, half)
        noisy = removal(torch.where(half, x, torch.nan), half)
        for key in ("logits", "pred_boxes"):
            torch.testing.assert_close(whole[key], plain[key], rtol=1e-4, atol=1e-4)
            assert torch.equal(noisy[key], part[key]) and not torch.equal(part[key], plain[key])


@torch.no_grad()
def test_engines_reorder_only_boxes_of_equal_scores() -> None:
    """Blank parts of a map give many boxes one score, to rounding, and their order decides what NMS keeps."""
    x = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    visible = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    visible = visible.repeat_interleave(32, 2).repeat_interleave(32, 3)
    model: Any = built("ssdlite")

    def answers(**settings: Any) -> list[dict[str, Tensor]]:
        for name, value in settings.items():
            setattr(model, name, value)
        removals = [lm.LayerMasking(model, engine=engine) for engine in ("dense", "sparse")]
        found = [removal([x[0]], [visible[0]])[0] for removal in removals]
        assert [removal.engine_used for removal in removals] == ["dense", "sparse"]
        return found

    kept = answers(topk_candidates=300, detections_per_img=200)
    boxes = [each["boxes"] for each in kept]
    differ = ((boxes[0] - boxes[1]).abs().amax(1) > 1e-2).nonzero()
    assert len(differ), "no box changed its place: nothing is tried here"
    first = int(differ[0])
    assert abs(float(kept[0]["scores"][first] - kept[1]["scores"][first])) < 1e-6
    # without suppression every candidate is there, and each engine has the other's box with its score
    every = answers(nms_thresh=1.0, topk_candidates=10**6, detections_per_img=10**6, score_thresh=0.0)
    assert len(every[0]["boxes"]) == len(every[1]["boxes"]) > 1000
    for label in range(1, 4):
        rows = [
            torch.cat([each["boxes"] / 160, each["scores"][:, None]], 1)[each["labels"] == label]
            for each in every
        ]
        apart = torch.cdist(*rows, p=float("inf"))
        assert float(apart.amin(0).max()) < 1e-5 and float(apart.amin(1).max()) < 1e-5
        scores = [row[:, 4] for row in rows]
        torch.testing.assert_close(*scores, rtol=0, atol=1e-6)
