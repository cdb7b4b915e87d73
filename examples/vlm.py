"""Which parts of a picture a vision-language model needs for the next word of its answer.

    python examples/vlm.py [PICTURE]

Hidden parts give no image tokens to the language model: their tokens get no attention weight. The target is
the log-probability of a word, a function of the model's answer. The model here is a tiny random LLaVA, and
its words are numbers; with `LlavaForConditionalGeneration.from_pretrained` and its processor they are real.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

import layermask as lm
from layermask.io.demo import PHOTOGRAPH

IMAGE_TOKEN = 60


class Question(nn.Module):
    """The model with a question in front, which takes images first."""

    def __init__(self, model: LlavaForConditionalGeneration, words: torch.Tensor) -> None:
        super().__init__()
        self.model, self.words = model, words

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, L, words) behind each word, for images (N, 3, H, W)."""
        words = self.words.expand(len(pixel_values), -1)
        return self.model(pixel_values=pixel_values, input_ids=words).logits


def tiny_llava() -> LlavaForConditionalGeneration:
    """Return a LLaVA with random weights for images of 64 pixels, 16 tokens each."""
    torch.manual_seed(0)
    both = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**both, "model_type": "clip_vision_model", "image_size": 64, "patch_size": 16}
    text = {**both, "model_type": "llama", "vocab_size": 64, "max_position_embeddings": 128}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    return LlavaForConditionalGeneration(config).eval()


def explain(
    model: LlavaForConditionalGeneration, image: torch.Tensor, words: torch.Tensor
) -> tuple[int, lm.Attribution]:
    """Explain the likeliest next word after a question (1, L) about an image (1, 3, H, W)."""
    asked = Question(model, words)
    with torch.no_grad():
        word = int(asked(image)[0, -1].argmax())

    def next_word(logits: Any) -> torch.Tensor:
        return logits[:, -1].log_softmax(-1)[:, word]

    explainer = lm.FeatureAblation(lm.LayerMasking(asked))
    return word, explainer.attribute(image, next_word, lm.Grid(16)(image[0]))


def main() -> lm.Attribution:
    """Print the best segments for the picture named on the command line."""
    picture = lm.load_image(sys.argv[1] if len(sys.argv) > 1 else PHOTOGRAPH).resize((64, 64))
    words = torch.tensor([[1, 5, *[IMAGE_TOKEN] * 16, 7, 9, 11]])
    word, found = explain(tiny_llava(), pil_to_tensor(picture)[None] / 255, words)
    print(f"word {word}: log-probability {found.prediction[0]:.3f} for the whole picture")
    print("segments that matter most:", found.scores[0].topk(5).indices.tolist())
    return found


if __name__ == "__main__":
    main()
