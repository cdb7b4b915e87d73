"""A handful of tiny models that call, between them, what most models call; `layermask check` judges them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 14
WIDTH = 12


def convolution(inputs: int, outputs: int = WIDTH, kernel: int = 3, **options: int) -> nn.Sequential:
    """A convolution and a batch norm that has seen data."""
    options.setdefault("padding", kernel // 2 * options.get("dilation", 1))
    norm = nn.BatchNorm2d(outputs)
    for tensor in (norm.running_var, norm.weight):
        nn.init.uniform_(tensor, 0.5, 1.5)
    for tensor in (norm.running_mean, norm.bias):
        nn.init.normal_(tensor, 0, 0.3)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, **options), norm)


class Gated(nn.Module):
    """A block of a ResNet with a gate, a strided shortcut and all kinds of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3)
        self.first, self.second = convolution(WIDTH, stride=2), convolution(WIDTH, dilation=2)
        self.short, self.depthwise = (
            convolution(WIDTH, kernel=1, stride=2),
            convolution(WIDTH, groups=WIDTH, kernel=5),
        )
        self.groups, self.wide = convolution(WIDTH, groups=3), convolution(WIDTH, 40, kernel=1)
        self.squeeze, self.excite = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(4, WIDTH, 1)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 1, 1)
        y = self.second(F.silu(self.first(x)))
        y = F.relu(y + self.short(x))
        y = F.hardswish(self.depthwise(y)) * torch.sigmoid(
            self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        )
        y = self.wide(F.leaky_relu(self.groups(y), 0.1))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(F.relu6(y), 1), 1))


class Branches(nn.Module):
    """Branches side by side, pools of all kinds, channels cut and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, WIDTH, stride=2)
        self.a, self.b = convolution(WIDTH, 8, kernel=1), convolution(WIDTH, 8, kernel=5)
        self.row = nn.Conv2d(WIDTH, 8, (1, 3), padding=(0, 1))
        self.column = nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.norm, self.last = nn.BatchNorm2d(36), nn.Conv2d(36, 6, 3, padding=1)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        parts = [self.a(pooled), self.b(x), self.column(self.row(x)), F.max_pool2d(x, 3, 1, 1)]
        y = F.gelu(self.norm(torch.cat(parts, 1)))
        y = y.view(len(y), 2, 18, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        one, two = y.chunk(2, 1)
        y = torch.cat([two, one.clamp(min=0)], 1)
        y = F.max_pool2d(self.last(y), 2, ceil_mode=True) + F.avg_pool2d(self.last(y), 2, ceil_mode=True)
        return self.head(F.adaptive_avg_pool2d(y, 4).flatten(1))


class Framed(nn.Module):
    """Explicit padding, resampling, transposed convolutions, norms over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.strided = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3, stride=2)
        self.up, self.group = nn.ConvTranspose2d(WIDTH, 8, 2, stride=2), nn.GroupNorm(3, WIDTH)
        self.mix, self.slope = nn.Conv2d(8, 8, 1), nn.PReLU(8)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group(torch.tanh(self.stem(F.pad(x, (1, 1, 1, 1)))))
        x = F.elu(self.strided(F.pad(x, (0, 1, 0, 1))))
        x = self.slope(self.up(x))
        x = F.instance_norm(x) + F.interpolate(self.mix(x)[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear")
        x = F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)
        spread = x.var((2, 3)) + x.std((2, 3), correction=0)
        return self.head(torch.cat([x.amax((2, 3)), spread], 1))


class Attending(nn.Module):
    """A small vision transformer, its attention spelled in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 2, 2), nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 50, 16))
        self.keys, self.norm, self.scale = nn.Linear(16, 48), nn.LayerNorm(16), nn.Parameter(torch.rand(16))
        self.inner, self.outer, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for way in (self.fused, self.spelled, self.summed):
            x = x + way(self.norm(x)) * self.scale
            x = x + self.outer(F.gelu(self.inner(F.layer_norm(x, (16,)))))
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], -1))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.keys(x).reshape(len(x), -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)

    def fused(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.split(x)).transpose(1, 2).reshape(x.shape)

    def spelled(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return (((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(x.shape)

    def summed(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = torch.einsum("bhqc,bhkc->bhqk", q, k).div(8**0.5).softmax(dim=-1)
        return torch.einsum("bhqk,bhkc->bqhc", weights, v).flatten(2)


class ChannelsLast(nn.Module):
    """A ConvNeXt in small: layer norms and linear layers of channels, layer scales, windows and shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.wide, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.more, self.last = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3, 2, 1)
        self.norm, self.inner, self.outer = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale, self.head = nn.Parameter(torch.rand(16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = (self.outer(F.gelu(self.inner(y))) * self.scale).permute(0, 3, 1, 2)
        x = x + y
        x = x + torch.roll(self.more(F.silu(self.wide(x))), (1, 1), (2, 3))
        x = F.hardsigmoid(self.other(x)) * x - x * 0.5
        x = self.last(x / (1 + x.abs()))
        return self.head(F.layer_norm(x.permute(0, 2, 3, 1), (16,)).mean((1, 2)))


class Odd(nn.Module):
    """What few models call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lstm = nn.Conv2d(3, 8, 3, 2, 1), nn.LSTM(8, 4, batch_first=True)
        self.fold, self.head = nn.Linear(72, 8), nn.Linear(53, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.stem(x))
        rows = x.flatten(2)
        sequence = self.lstm(rows.transpose(1, 2))[0]
        near = self.fold(F.unfold(x, 3, padding=1).transpose(1, 2)).mean(1)
        peaks = torch.stack([rows.max(-1).values, rows.min(-1).values, rows.logsumexp(-1)], 1).flatten(1)
        pooled = F.lp_pool2d(x.clamp(min=1e-3), 2.0, 2).sum((2, 3)) / 10
        gated = (torch.softmax(rows, -1) * rows).sum(-1)
        top = F.normalize(rows.mean(-1), dim=1)[:, :1]
        return self.head(torch.cat([sequence.mean(1), near, peaks, pooled, gated, top], 1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind for kind in (Gated, Branches, ChannelsLast, Attending, Framed, Odd)
}


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MODELS[name]().eval()
