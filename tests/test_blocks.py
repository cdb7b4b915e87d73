"""The laws on blocks as models write them, one by one and in random chains: rules that meet other rules."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask.check.laws import LAWS, check_laws

C = 12


def kernel(*shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=draw) / math.sqrt(math.prod(shape[1:]))


def attention(x: Tensor) -> Tensor:
    t = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(t, t, t).transpose(1, 2).reshape(x.shape)


def written_out_attention(x: Tensor) -> Tensor:
    t = x.flatten(2).transpose(1, 2)
    return ((t @ t.mT * 0.1).softmax(-1) @ t).transpose(1, 2).reshape(x.shape)


def cross_covariance(x: Tensor) -> Tensor:
    t = F.normalize(x.flatten(2), dim=-1)
    return ((t @ t.mT).softmax(-1) @ x.flatten(2)).reshape(x.shape)


def squeeze_excitation(x: Tensor) -> Tensor:
    return x * F.conv2d(F.adaptive_avg_pool2d(x, 1), kernel(C, C, 1, 1)).sigmoid()


def channel_attention(x: Tensor) -> Tensor:
    """ECA: a 1-d convolution along the channels."""
    y = F.conv1d(x.mean((2, 3)).unsqueeze(1), kernel(1, 1, 3), padding=1).sigmoid().view(x.shape[0], C, 1, 1)
    return x * y.expand_as(x)


def spatial_attention(x: Tensor) -> Tensor:
    """CBAM: mean and maximum over the channels."""
    y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * F.conv2d(y, kernel(1, 2, 3, 3), padding=1).sigmoid()


def coordinate_attention(x: Tensor) -> Tensor:
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
    y = F.conv2d(torch.cat([rows, columns], 2), kernel(C, C, 1, 1)).relu()
    rows, columns = torch.split(y, [x.shape[2], x.shape[3]], 2)
    return x * rows.sigmoid() * columns.permute(0, 1, 3, 2).sigmoid()


def global_context(x: Tensor) -> Tensor:
    weights = x.mean(1, keepdim=True).view(x.shape[0], 1, -1).softmax(2)
    context = torch.matmul(x.view(x.shape[0], C, -1), weights.transpose(1, 2)).unsqueeze(-1)
    return x + F.conv2d(context, kernel(C, C, 1, 1))


def response_norm(x: Tensor) -> Tensor:
    """GRN (ConvNeXt V2)."""
    t = x.permute(0, 2, 3, 1)
    norm = t.norm(p=2, dim=(1, 2), keepdim=True)
    return (t + t * norm / (norm.mean(-1, keepdim=True) + 1e-6)).permute(0, 3, 1, 2)


def selective_kernel(x: Tensor) -> Tensor:
    s = torch.stack([x, F.conv2d(x, kernel(C, 1, 3, 3), padding=1, groups=C)], 1)
    y = s.sum(1).mean((2, 3))
    return (s * torch.stack([y, y * 2], 1).softmax(1)[..., None, None]).sum(1)


def channel_shuffle(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 3, 4, h, w).transpose(1, 2).reshape(b, c, h, w)


def halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([a, F.conv2d(b, kernel(6, 6, 3, 3), padding=1)], 1)


def pyramid(x: Tensor) -> Tensor:
    small = F.avg_pool2d(x, 2, 2, ceil_mode=True)
    return x + F.interpolate(small, size=x.shape[2:], mode="bilinear")


def token_mixing(x: Tensor) -> Tensor:
    t = x.flatten(2)
    return (t + F.linear(t, kernel(t.shape[2], t.shape[2]))).reshape(x.shape)


def pool_mixing(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


def space_to_depth(x: Tensor) -> Tensor:
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return F.conv2d(F.pixel_unshuffle(x, 2), kernel(C, 4 * C, 1, 1))


def patch_merging(x: Tensor) -> Tensor:
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    phases = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
    return F.conv2d(torch.cat(phases, 1), kernel(C, 4 * C, 1, 1))


def blur_pool(x: Tensor) -> Tensor:
    blur = torch.ones(C, 1, 3, 3, dtype=torch.float64) / 9
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), blur, stride=2, groups=C)


def tensorflow_same(x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel(C, C, 3, 3), stride=2)


def padded_channels(x: Tensor) -> Tensor:
    """A shortcut that has fewer channels than the branch."""
    return F.pad(x[:, :8], (0, 0, 0, 0, 2, 2)) + x


def shifts(x: Tensor) -> Tensor:
    p = F.pad(x, (1, 1, 1, 1))
    up, down, left = p[:, :3, :-2, 1:-1], p[:, 3:6, 2:, 1:-1], p[:, 6:9, 1:-1, :-2]
    return F.conv2d(torch.cat([up, down, left, p[:, 9:, 1:-1, 2:]], 1), kernel(C, C, 1, 1))


def in_place(x: Tensor) -> Tensor:
    y = x * 1
    y += x.mean((2, 3), keepdim=True)
    return F.relu(y, inplace=True)


def windows(x: Tensor) -> Tensor:
    """Windows of 2 x 2 on a map padded to fit them, rolled by one."""
    b, c, h, w = x.shape
    p = torch.roll(F.pad(x, (0, -w % 2, 0, -h % 2)), (-1, -1), (2, 3))
    rows, columns = p.shape[2] // 2, p.shape[3] // 2
    t = p.view(b, c, rows, 2, columns, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    t = F.scaled_dot_product_attention(t, t, t).view(b, rows, columns, 2, 2, c)
    t = t.permute(0, 5, 1, 3, 2, 4).reshape(p.shape)
    return x + torch.roll(t, (1, 1), (2, 3))[:, :, :h, :w]


def involution(x: Tensor) -> Tensor:
    """A softmax-weighted sum over each neighbourhood."""
    u = F.unfold(x, 3, padding=1).view(x.shape[0], C, 9, -1)
    return (u * u.mean(1, keepdim=True).softmax(2)).sum(2).view(x.shape)


def focal_modulation(x: Tensor) -> Tensor:
    out = x
    for size in (3, 5):
        out = F.gelu(F.conv2d(out, kernel(C, 1, size, size), padding=size // 2, groups=C))
    return x * (out + out.mean(2, keepdim=True).mean(3, keepdim=True))


def up_and_down(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.conv_transpose2d(x, kernel(C, C, 2, 2), stride=2), 2)


def dense(x: Tensor) -> Tensor:
    y = F.conv2d(F.relu(x), kernel(4, C, 3, 3), padding=1)
    z = F.conv2d(torch.cat([x, y], 1), kernel(4, C + 4, 3, 3), padding=1)
    return F.conv2d(torch.cat([x, y, z], 1), kernel(C, C + 8, 1, 1))


BLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv": lambda x: F.conv2d(x, kernel(C, C, 3, 3), padding=1),
    "strided conv": lambda x: F.conv2d(x, kernel(C, C, 3, 3), stride=2, padding=1),
    "dilated conv": lambda x: F.conv2d(x, kernel(C, 1, 3, 3), padding=2, dilation=2, groups=C),
    "narrow conv": lambda x: F.conv2d(x, kernel(C, 4, 5, 3), padding="same", groups=3),
    "residual": lambda x: x + F.conv2d(x, kernel(C, C, 3, 3), padding=1),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "ceil pool": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "lp pool": lambda x: F.lp_pool2d(x.clamp(-3, 3).exp(), 2, 2, ceil_mode=True),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2),
    "group norm": lambda x: F.group_norm(x, 3),
    "gelu": F.gelu,
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    **{
        block.__name__: block
        for block in (
            attention,
            written_out_attention,
            cross_covariance,
            squeeze_excitation,
            channel_attention,
            spatial_attention,
            coordinate_attention,
            global_context,
            response_norm,
            selective_kernel,
            channel_shuffle,
            halves,
            pyramid,
            token_mixing,
            pool_mixing,
            space_to_depth,
            patch_merging,
            blur_pool,
            tensorflow_same,
            padded_channels,
            shifts,
            in_place,
            windows,
            involution,
            focal_modulation,
            up_and_down,
            dense,
        )
    },
}
HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "map": lambda x: x,
    "pooled": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "flattened": lambda x: F.linear(F.adaptive_avg_pool2d(x, (2, 2)).flatten(1), kernel(5, 4 * C)),
}


class Chain(nn.Module):
    """A stem, some blocks while the map is large enough for them, and a head."""

    def __init__(self, blocks: list[str], head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks, self.head = nn.Conv2d(3, C, 3, padding=1), blocks, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.blocks:
            x = BLOCKS[name](x) if min(x.shape[2:]) >= 3 else x
        return HEADS[self.head](x)


def broken(model: nn.Module, images: Tensor, seed: int) -> list[str]:
    verdicts = check_laws(model.double().eval(), images.double(), tuple(LAWS), seed)
    return [f"law {v.law}: {v.detail} ({v.error:.1e})" for v in verdicts if not v.passed]


def images(seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    size = torch.randint(8, 13, (2,), generator=draw).tolist()
    return torch.randn(5, 3, *size, generator=draw)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_obeys_the_laws(name: str) -> None:
    assert not broken(Chain([name], "map"), images(0), 0)


def chain(seed: int) -> Chain:
    draw = random.Random(seed)
    return Chain(draw.choices(list(BLOCKS), k=draw.randint(2, 5)), draw.choice(list(HEADS)))


@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(s, marks=pytest.mark.slow) for s in range(40, 400))]
)
def test_chains_of_blocks_obey_the_laws(seed: int) -> None:
    model = chain(seed)
    assert not broken(model, images(seed), seed), f"{model.blocks} -> {model.head}"
