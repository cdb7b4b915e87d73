"""Language models that see: hidden image tokens reach no answer, and all visible is the plain model.

Tiny random configurations of transformers; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layermask as lm

T = pytest.importorskip("transformers")
IMAGE, START = 60, 61
TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8, "num_channels": 3,
}  # fmt: skip
SIGLIP = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
QWEN = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 1, "out_hidden_size": 32, "in_channels": 3,
}  # fmt: skip


def _rope(**more: Any) -> dict:
    return TEXT | {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2], **more}}


def _text(kind: str, **more: Any) -> dict:
    return TEXT | {"model_type": kind} | more


MODELS: dict[str, tuple[int, dict]] = {
    "Llava": (
        16,
        {"vision_config": VISION | {"model_type": "clip_vision_model"}, "text_config": _text("llama")},
    ),
    "Idefics3": (4, {"vision_config": VISION, "text_config": _text("llama"), "scale_factor": 2}),
    "SmolVLM": (4, {"vision_config": VISION, "text_config": _text("llama"), "scale_factor": 2}),
    "InternVL": (
        4,
        {
            "vision_config": VISION | {"image_size": (32, 32), "patch_size": (8, 8)},
            "text_config": _text("qwen2"),
            "downsample_ratio": 0.5,
        },
    ),
    "PaliGemma": (16, {"vision_config": SIGLIP, "text_config": _text("gemma"), "projection_dim": 32}),
    "Gemma3": (
        4,
        {
            "vision_config": SIGLIP,
            "text_config": _text("gemma3_text", query_pre_attn_scalar=8, sliding_window=32),
            "mm_tokens_per_image": 4,
        },
    ),
    "Qwen2_5_VL": (
        16,
        {"vision_config": QWEN | {"window_size": 16, "fullatt_block_indexes": [1]}, "text_config": _rope()},
    ),
    "Qwen3VL": (
        16,
        {
            "vision_config": QWEN | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
            "text_config": _rope(mrope_interleaved=True),
        },
    ),
}
"""Family -> image tokens of a picture of 32 x 32, and the configuration."""


class Asks(nn.Module):
    """The logits of a question with one picture, which goes in as the family's processor lays it out."""

    def __init__(self, family: str) -> None:
        super().__init__()
        tokens, config = MODELS[family]
        torch.manual_seed(0)
        ids = {"image_token_id": IMAGE, "image_token_index": IMAGE, "vision_start_token_id": START}
        config = getattr(T, f"{family}Config")(**config, **ids)
        self.model = getattr(T, f"{family}ForConditionalGeneration")(config)
        self.family, self.ids = family, torch.tensor([[1, 5, START, *[IMAGE] * tokens, 7, 9, 11]])

    def forward(self, x: Tensor) -> Tensor:
        ids = self.ids.expand(len(x), -1)
        more: dict[str, Tensor] = {}
        if self.family in ("Idefics3", "SmolVLM"):
            x = x[:, None]
        elif self.family == "Gemma3":
            more = {"token_type_ids": (ids == IMAGE).long()}
        elif self.family.startswith("Qwen"):
            more = {
                "mm_token_type_ids": (ids == IMAGE).long(),
                "image_grid_thw": torch.tensor([[1, 8, 8]] * len(x)),
            }
            x = x.reshape(-1, 3, 4, 2, 4, 4, 2, 4).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 48)
        mask = torch.ones_like(ids)
        return self.model(input_ids=ids, pixel_values=x, attention_mask=mask, **more).logits


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_hidden_image_tokens_reach_no_logit(family: str, engine: str) -> None:
    model = Asks(family).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    half, none = whole.clone(), whole & False
    half[..., :16] = False
    removal = lm.LayerMasking(model, engine=engine)
    plain = model(x)
    torch.testing.assert_close(removal(x, whole), plain, rtol=1e-5, atol=1e-5)
    part = removal(x, half)
    for other in (torch.where(half, x, torch.nan), torch.where(half, x, 9 * x.flip(0))):
        assert torch.equal(removal(other, half), part)
    assert not torch.equal(part, plain) and removal(x, none).isfinite().all()


@torch.no_grad()
def test_the_language_model_knows_which_image_tokens_are_hidden() -> None:
    model, seen = Asks("InternVL").eval(), []
    language = model.model.model.language_model
    language.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    visible = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    visible[..., :16] = False
    lm.LayerMasking(model)(torch.randn(1, 3, 32, 32), visible)
    shown = seen[0].visible
    assert shown.shape == (1, 10, 1), "one entry per token"
    assert shown.flatten().tolist() == [True] * 3 + [False, True] * 2 + [True] * 3
