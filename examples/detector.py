"""D-RISE: which parts of a picture a detector needs to find one of its boxes (Petsiuk et al. 2021).

    python examples/detector.py [PICTURE]

The target is a box that the detector found: the best product of class score and overlap among its boxes under
each mask. With weights in torchvision's cache the detector is the trained one, and else a random one, which
shows the calls alone.
"""

from __future__ import annotations

import sys

import torch
from torchvision.models import detection
from torchvision.transforms.functional import pil_to_tensor

import layermask as lm
from layermask.check.randomise import randomise
from layermask.io.demo import PHOTOGRAPH


def detector(trained: bool = False) -> torch.nn.Module:
    """Return a detector of torchvision for pictures of any size, in 0 to 1."""
    if trained:
        return detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights="DEFAULT").eval()
    torch.manual_seed(0)
    tiny = {"num_classes": 4, "min_size": 64, "max_size": 96, "box_score_thresh": 0.0}
    few = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10}
    made = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, **tiny, **few)
    # torchvision's own random weights are so small that no picture changes a score.
    return randomise(made.eval(), torch.rand(4, 3, 64, 96))


def explain(model: torch.nn.Module, image: torch.Tensor, n_samples: int = 500) -> lm.Attribution:
    """Explain the box of the highest score in an image (1, 3, H, W)."""
    with torch.no_grad():
        found = model(image)[0]
    best = int(found["scores"].argmax())
    target = lm.explain.Box(found["boxes"][best].tolist(), int(found["labels"][best]))
    removal = lm.LayerMasking(model)
    explainer = lm.Rise(removal, n_samples=n_samples, perturbations_per_eval=8)
    return explainer.attribute(image, target, lm.Grid(16)(image[0]))


def main() -> lm.Attribution:
    """Print the best segments for the picture named on the command line."""
    picture = lm.load_image(sys.argv[1] if len(sys.argv) > 1 else PHOTOGRAPH).resize((96, 64))
    image = pil_to_tensor(picture)[None] / 255
    found = explain(detector(), image, n_samples=32)
    print(f"{found.targets[0]}: {found.prediction[0]:.3f} for the whole picture")
    print("segments that matter most:", found.scores[0].topk(5).indices.tolist())
    return found


if __name__ == "__main__":
    main()
