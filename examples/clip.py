"""Which parts of a picture make CLIP find it similar to a text.

    python examples/clip.py [PICTURE]

SigLIP and DINO go the same way: the target is the cosine of the image's embedding and any other embedding, of
a text or of another image. The model here is a tiny random one, and the text four numbers of words; with
`CLIPModel.from_pretrained` and its processor they are real ones.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from transformers import CLIPConfig, CLIPModel

import layermask as lm
from layermask.io.demo import PHOTOGRAPH


class ImageFeatures(nn.Module):
    """The image half of CLIP, which takes images first: the whole model takes the text first."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (N, D) of images (N, 3, H, W)."""
        return self.clip.get_image_features(pixel_values=pixel_values)


def tiny_clip() -> CLIPModel:
    """Return a CLIP with random weights for images of 64 pixels."""
    torch.manual_seed(0)
    half = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49, "bos_token_id": 48}
    pixels = {"image_size": 64, "patch_size": 16}
    config = CLIPConfig(text_config={**half, **words}, vision_config={**half, **pixels}, projection_dim=8)
    return CLIPModel(config).eval()


def explain(clip: CLIPModel, image: torch.Tensor, words: torch.Tensor) -> lm.Attribution:
    """Explain the similarity of an image (1, 3, H, W) to a text, its tokens (1, L)."""
    with torch.no_grad():
        text = clip.get_text_features(input_ids=words)
    text = text if isinstance(text, torch.Tensor) else text.pooler_output  # by the version of transformers
    target = lm.explain.Similarity(text, "the text")
    explainer = lm.FeatureAblation(lm.LayerMasking(ImageFeatures(clip)))
    return explainer.attribute(image, target, lm.Grid(16)(image[0]))


def main() -> lm.Attribution:
    """Print the best segments for the picture named on the command line."""
    picture = lm.load_image(sys.argv[1] if len(sys.argv) > 1 else PHOTOGRAPH).resize((64, 64))
    found = explain(tiny_clip(), pil_to_tensor(picture)[None] / 255, torch.tensor([[48, 7, 12, 49]]))
    print(f"{found.targets[0]}: {found.prediction[0]:.3f}")
    print("segments that matter most:", found.scores[0].topk(5).indices.tolist())
    return found


if __name__ == "__main__":
    main()
