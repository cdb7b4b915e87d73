"""What a segmenter looks at for a region: a class over a polygon of its map.

    python examples/segmenter.py [PICTURE]

The score is the mean probability of a class over the region. Hidden cells of the map count as scores of 0, so
that what the segments outside of the region add is the context that the model needs.
"""

from __future__ import annotations

import sys

import torch
from torchvision.models import segmentation
from torchvision.transforms.functional import normalize, pil_to_tensor

import layermask as lm
from layermask.io.demo import PHOTOGRAPH


def segmenter() -> torch.nn.Module:
    """Return a small segmenter with random weights; `weights="DEFAULT"` gives a trained one."""
    torch.manual_seed(0)
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()


def explain(model: torch.nn.Module, image: torch.Tensor, points: list[tuple[int, int]]) -> lm.Attribution:
    """Explain the class that covers most of a polygon, corners (x, y), of an image (1, 3, H, W)."""
    size = (image.shape[2], image.shape[3])
    with torch.no_grad():
        classes = model(image)["out"].argmax(1)[0]
    region = lm.explain.Region.polygon(0, points, size).region
    target = lm.explain.Region(int(classes[region].mode().values), region)
    explainer = lm.FeatureAblation(lm.LayerMasking(model), output="softmax", perturbations_per_eval=8)
    return explainer.attribute(image, target, lm.Grid(32).labels(size))


def main() -> lm.Attribution:
    """Print how much each segment adds to the middle of the picture named on the command line."""
    picture = lm.load_image(sys.argv[1] if len(sys.argv) > 1 else PHOTOGRAPH).resize((96, 96))
    image = normalize(pil_to_tensor(picture)[None] / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = explain(segmenter(), image, [(32, 32), (64, 32), (64, 64), (32, 64)])
    print(f"class {found.targets[0]}: {found.prediction[0]:.3f}")
    print("segments, from the one that adds most:", found.scores[0].argsort(descending=True).tolist())
    return found


if __name__ == "__main__":
    main()
