"""Token dropping: equal to masked keys, to doing it by hand, and honest about models it cannot serve."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from layermask import LayerMasking
from layermask.check.randomise import randomise
from layermask.errors import InputError, ModelError
from layermask.removal.token_dropping import TokenDropping

timm = pytest.importorskip("timm")
SIDE = 64
IMAGES = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def patches(count: int, shown: list[int], seed: int = 0) -> torch.Tensor:
    """A mask per image that shows so many of its count x count patches."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.rand(count**2, generator=draw).argsort().argsort() < n for n in shown]
    cells = torch.stack(rows).view(-1, 1, count, count)
    return cells.repeat_interleave(SIDE // count, 2).repeat_interleave(SIDE // count, 3)


def of_timm(name: str, **options) -> nn.Module:
    model = timm.create_model(name, num_classes=7, img_size=SIDE, **options)
    return randomise(model.eval(), IMAGES)


def of_torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer

    return randomise(VisionTransformer(SIDE, 16, 2, 2, 32, 64, num_classes=7).eval(), IMAGES)


def of_transformers(kind: str) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        image_size=SIDE, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=7,
    )  # fmt: skip
    return randomise(getattr(transformers, f"{kind}ForImageClassification")(config).eval(), IMAGES)


DROPS = {
    "vit": lambda: of_timm("vit_tiny_patch16_224", depth=2),
    "vit, mean of tokens": lambda: of_timm(
        "vit_tiny_patch16_224", depth=2, global_pool="avg", class_token=False
    ),
    "vit, registers": lambda: of_timm("vit_small_patch14_reg4_dinov2", depth=2, patch_size=16),
    "vit, attention pooling": lambda: of_timm("vit_base_patch16_siglip_224", depth=2),
    "deit, distilled": lambda: of_timm("deit_tiny_distilled_patch16_224", depth=2),
    "torchvision": of_torchvision,
    "hf ViT": lambda: of_transformers("ViT"),
    "hf DeiT": lambda: of_transformers("DeiT"),
    "hf Dinov2": lambda: of_transformers("Dinov2"),
}
KEYS = {
    "beit: relative positions": lambda: of_timm("beit_base_patch16_224", depth=2),
    "eva02: rotary positions": lambda: of_timm("eva02_tiny_patch14_224", depth=2, patch_size=16),
}


def logits(output):
    return getattr(output, "logits", output)


@torch.no_grad()
@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("keep", ["all", "any"])
def test_dropping_is_masking_the_keys(name: str, keep: str) -> None:
    model = DROPS[name]()
    dropping, masking = TokenDropping(model, keep), LayerMasking(model)
    lengths: list[int] = []
    for module in dropping._entrances:
        module.register_forward_hook(
            lambda m, args, out: lengths.append((out[0] if isinstance(out, tuple) else out).shape[1])
        )
    equal, ragged = patches(4, [5, 5, 5, 5]), patches(4, [5, 0, 16, 9], seed=1)
    for visible in (equal, ragged, patches(4, [16] * 4), patches(4, [0] * 4), equal):
        torch.testing.assert_close(
            logits(dropping(IMAGES, visible)), logits(masking(IMAGES, visible)), rtol=1e-5, atol=1e-5
        )
    assert dropping.drops is True
    assert max(lengths) - 11 == min(lengths)  # 5 of 16 patches, and the tokens that are none
    whole = logits(dropping(IMAGES, torch.ones_like(equal)))
    assert torch.equal(whole, logits(model(IMAGES)))


@torch.no_grad()
@pytest.mark.parametrize("name", KEYS)
def test_blocks_that_know_where_tokens_lie_have_them_masked(name: str) -> None:
    model = KEYS[name]()
    dropping, visible = TokenDropping(model), patches(4, [5] * 4)
    with pytest.warns(UserWarning, match="masked as keys instead of dropped"):
        first = dropping(IMAGES, visible)
    assert dropping.drops is False
    torch.testing.assert_close(first, LayerMasking(model)(IMAGES, visible))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(dropping(IMAGES, visible), first)


@torch.no_grad()
def test_against_dropping_by_hand() -> None:
    model, visible = of_timm("vit_tiny_patch16_224", depth=3), patches(4, [6] * 4)
    x = model._pos_embed(model.patch_embed(IMAGES))  # type: ignore[operator]
    shown = visible[:, 0, ::16, ::16].flatten(1)
    rows = [torch.cat([x[i, :1], x[i, 1:][shown[i]]]) for i in range(4)]
    want = model.forward_head(model.norm(model.blocks(torch.stack(rows))))  # type: ignore[operator]
    dropping = TokenDropping(model)
    for _ in range(2):
        torch.testing.assert_close(dropping(IMAGES, visible), want, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_partly_hidden_patches_go_or_stay() -> None:
    model = of_timm("vit_tiny_patch16_224", depth=2)
    partly = patches(4, [8] * 4)
    without, partly = partly.clone(), partly.clone()
    index = partly[0, 0].nonzero()[0]
    partly[:, :, index[0], index[1]] = False  # one pixel of a visible patch of the first image
    cell = index // 16 * 16
    without[:, :, cell[0] : cell[0] + 16, cell[1] : cell[1] + 16] = False
    drop_all, drop_any = TokenDropping(model, "all"), TokenDropping(model, "any")
    torch.testing.assert_close(drop_all(IMAGES, partly), drop_all(IMAGES, without))
    torch.testing.assert_close(
        drop_any(IMAGES, partly), LayerMasking(model)(IMAGES, partly), rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(drop_any(IMAGES, partly)[0], drop_all(IMAGES, partly)[0])


def test_hidden_pixels_and_other_images_do_not_matter() -> None:
    model, visible = of_timm("vit_tiny_patch16_224", depth=2), patches(4, [7] * 4)
    dropping = TokenDropping(model)
    base = dropping(IMAGES, visible)
    for junk in (float("nan"), float("inf"), 9.0):
        x = torch.where(visible, IMAGES, junk).requires_grad_()
        out = dropping(x, visible)
        torch.testing.assert_close(out, base, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert gradient.isfinite().all() and not gradient[~visible.expand_as(x)].any()
    one_by_one = torch.cat([dropping(IMAGES[i : i + 1], visible[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(one_by_one, base, rtol=1e-5, atol=1e-5)
    shared = dropping(IMAGES[:1], visible)
    torch.testing.assert_close(shared, dropping(IMAGES[:1].expand(4, -1, -1, -1), visible))


def test_no_hook_stays_and_nothing_is_changed() -> None:
    model = of_timm("vit_tiny_patch16_224", depth=2)
    TokenDropping(model)(IMAGES, patches(4, [3] * 4))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_bad_input() -> None:
    with pytest.raises(ModelError, match=r"this Sequential does not begin with .* use LayerMasking"):
        TokenDropping(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ModelError, match="no tokens to drop"):
        TokenDropping(nn.Linear(3, 3))
    with pytest.raises(InputError, match="keep is 'some': choose all or any"):
        TokenDropping(nn.Conv2d(3, 4, 16, 16), keep="some")  # type: ignore[arg-type]
