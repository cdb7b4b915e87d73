"""`LayerMasking`: what goes in, what is refused in which words, and what comes out."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import LayerMasking, Masked
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import Settings
from layermask.removal.layer_masking import _ending

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
M = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5


class Residual(nn.Module):
    """A ResNet in small: stem, pool, a block with a strided shortcut, global pool, head."""

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv, norm = (
            (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1],
            (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[n - 1],
        )
        self.conv1, self.bn1, self.maxpool = (
            conv(3, 12, 3, padding=1, bias=False),
            norm(12),
            getattr(nn, f"MaxPool{n}d")(2),
        )
        self.conv2, self.bn2 = conv(12, 12, 3, 2, 1, bias=False), norm(12)
        self.downsample, self.relu = conv(12, 12, 1, 2, bias=False), nn.ReLU(inplace=True)
        self.avgpool, self.fc = getattr(nn, f"AdaptiveAvgPool{n}d")(1), nn.Linear(12, 5)
        for module in self.modules():
            if isinstance(module, norm):
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.running_mean)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out = self.bn2(self.conv2(x))
        out += self.downsample(x)
        return self.fc(torch.flatten(self.avgpool(self.relu(out)), 1))


# --- what is refused ---------------------------------------------------------------------------------------

soft = F.interpolate(M[:, :, ::2, ::2].float(), size=(8, 8), mode="bilinear")
half_gray = M.float().index_fill(3, torch.tensor([0]), 0.5)
REFUSED: list[tuple[Any, Any, type, str]] = [
    (X.numpy(), M, TypeError, "images must be a torch.Tensor, not ndarray."),
    (X, M.numpy(), TypeError, "visible must be a torch.Tensor, not ndarray."),
    (X, None, TypeError, "visible must be a torch.Tensor, not NoneType."),
    (
        X.byte(),
        M,
        TypeError,
        "images must be floating point (normalised as the model expects), not torch.uint8.",
    ),
    (X.to(torch.complex64), M, TypeError, "images must be floating point"),
    (X[0, 0], M[0, 0], ValueError, "images must be (N, C, *S), as (1, 3, 224, 224), not of shape (8, 8)."),
    (X[0], M[0], ValueError, "visible must be (N or 1, 1, *S), here (3 or 1, 1, 8), not of shape (1, 8, 8)."),
    (X[:0], M[:0], ValueError, "images of shape (0, 3, 8, 8) hold no entries."),
    (X[..., :0], M[..., :0], ValueError, "images of shape (2, 3, 8, 0) hold no entries."),
    (
        X,
        M[:, 0],
        ValueError,
        "visible must be (N or 1, 1, *S), here (2 or 1, 1, 8, 8), not of shape (2, 8, 8).",
    ),
    (X, M.expand(2, 3, 8, 8), ValueError, "here (2 or 1, 1, 8, 8), not of shape (2, 3, 8, 8)."),
    (X, M[..., :4], ValueError, "not of shape (2, 1, 8, 4): resize masks by nearest neighbour only."),
    (X, M[..., :1], ValueError, "not of shape (2, 1, 8, 1): resize masks by nearest neighbour only."),
    (X, M.repeat(2, 1, 1, 1)[:3], ValueError, "3 masks do not pair with 2 images."),
    (X, soft, ValueError, "visible of dtype torch.float32 holds"),
    (
        X,
        half_gray,
        ValueError,
        "holds 16 values other than 0 and 1 (the first is 0.5): threshold it, or resize",
    ),
    (X, M.byte() * 255, ValueError, "visible of dtype torch.uint8 holds"),
    (X, M.float() * math.nan, ValueError, "visible of dtype torch.float32 holds"),
    (X, M.to(torch.complex64), TypeError, "visible must be bool, not torch.complex64."),
    (
        torch.where(M, math.nan, X),
        M,
        ValueError,
        "images hold NaN in visible pixels: hide those pixels, or repair",
    ),
    (X, M.to("meta"), ValueError, "visible is on meta, a device without values"),
    (
        X.double(),
        M,
        ValueError,
        "images are torch.float64 on cpu, the model's parameters torch.float32 on cpu",
    ),
]


@pytest.mark.parametrize("images, visible, error, message", REFUSED, ids=[m for *_, m in REFUSED])
def test_what_is_refused(images: Any, visible: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        LayerMasking(Residual())(images, visible)


OPTIONS = [
    ({"fill": "blur"}, "fill is 'blur': choose neighbor, zero or renormalize"),
    ({"growth": "none"}, "growth is 'none': choose any, half, center"),
    ({"pool": "max"}, "pool is 'max': choose nothing, neighbor or zero"),
    ({"join": "xor"}, "join is 'xor': choose intersection, majority or union"),
    ({"compat": "v1"}, "compat is 'v1': choose"),
    ({"until": "layer9"}, "until='layer9' names no submodule of the Residual; it has conv1, bn1, maxpool"),
]


@pytest.mark.parametrize("options, message", OPTIONS, ids=str)
def test_options_that_do_not_exist(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LayerMasking(Residual(), **options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.float64, torch.uint8, torch.int64, torch.int8]
)
def test_masks_of_zeros_and_ones_are_masks(dtype: torch.dtype) -> None:
    removal = LayerMasking(Residual())
    assert torch.equal(removal(X, M.to(dtype)), removal(X, M))


def test_infinite_hidden_pixels_and_nan_are_fine() -> None:
    removal = LayerMasking(Residual())
    for content in (math.nan, math.inf, -math.inf):
        assert torch.equal(removal(torch.where(M, X, content), M), removal(X, M))


# --- what comes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_visible_is_the_plain_model(n: int) -> None:
    images = torch.randn(2, 3, *(8,) * n, generator=torch.Generator().manual_seed(n))
    model, everything = Residual(n), torch.ones(1, 1, *(8,) * n, dtype=torch.bool)
    assert torch.equal(LayerMasking(model)(images, everything), model(images))
    some = torch.cat([everything, torch.rand(1, 1, *(8,) * n) < 0.5])
    assert torch.equal(LayerMasking(model)(images, some)[:1], model(images)[:1])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"fill": "renormalize"}, {"growth": "half"}, {"compat": "paper"}, {"compat": "release"}],
    ids=str,
)
def test_nothing_visible_is_the_bias(n: int, options: dict) -> None:
    images, model = torch.randn(2, 3, *(8,) * n), Residual(n)
    out = LayerMasking(model, **options)(images, torch.zeros(1, 1, *(8,) * n, dtype=torch.bool))
    assert torch.equal(out, model.fc.bias.expand(2, -1))


@pytest.mark.parametrize(
    "dtype, near", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1), (torch.float64, 1e-5)]
)
def test_other_precisions(dtype: torch.dtype, near: float) -> None:
    out = LayerMasking(Residual().to(dtype))(X.to(dtype), M)
    assert out.dtype is dtype
    assert torch.allclose(out.float(), LayerMasking(Residual())(X, M), atol=near)
    everything = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    assert torch.equal(
        LayerMasking(Residual().to(dtype))(X.to(dtype), everything), Residual().to(dtype)(X.to(dtype))
    )


def test_half_counts_the_pixels_of_a_large_map() -> None:
    """65504 is the largest half: neither counts nor sums of a 300 x 300 map may overflow."""
    x = torch.full((1, 2, 300, 300), 3.0, dtype=torch.float16)
    x[..., ::2] = 1.0
    visible = torch.zeros(1, 1, 300, 300, dtype=torch.bool)
    visible[..., :250, :] = True
    for apply in (lambda t: t.mean((2, 3)), lambda t: F.adaptive_avg_pool2d(t, 1).flatten(1)):
        out = apply(Masked(x, visible))
        assert (out.value - 2).abs().max() < 1e-2


@pytest.mark.parametrize("channels", [2, 12])
def test_half_fills_large_values(channels: int) -> None:
    """The sum of eight neighbours may overflow where their mean does not."""
    x, visible = (
        torch.full((1, channels, 8, 8), 3e4, dtype=torch.float16),
        torch.zeros(1, 1, 8, 8, dtype=torch.bool),
    )
    visible[..., ::3] = True
    mean = torch.full((channels, 1, 3, 3), 1 / 9, dtype=torch.float16)
    out = F.conv2d(Masked(x, visible), mean, groups=channels)
    assert (out.value / 3e4 - 1).abs().max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = Residual()
    with torch.autocast("cpu", dtype):
        ours, plain = LayerMasking(model)(X, M), model(X)
        whole = LayerMasking(model)(X, torch.ones_like(M))
    assert torch.equal(whole, plain)
    assert torch.allclose(ours.float(), LayerMasking(model)(X, M), atol=1e-1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(layout: torch.memory_format) -> None:
    model = Residual().to(memory_format=layout)
    out = LayerMasking(model)(X.contiguous(memory_format=layout), M)
    assert torch.allclose(out, LayerMasking(Residual())(X, M), atol=1e-5)


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded rows": lambda m: m[:1, :, :, :1].expand(2, 1, 8, 8),
    "expanded batch": lambda m: m[:1].expand(2, 1, 8, 8),
    "transposed": lambda m: m.mT.contiguous().mT,
    "flipped": lambda m: m.flip(-1),
    "a slice": lambda m: F.pad(m, (1, 1, 1, 1))[..., 1:-1, 1:-1],
}


@pytest.mark.parametrize("name", STRIDES)
def test_how_the_mask_is_stored_does_not_matter(name: str) -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Residual()

        def forward(self, x: Tensor) -> Tensor:
            a, b, c = x.chunk(3, dim=1)
            return self.inner(torch.cat([c, b, a[:, :1]], 1))

    visible = STRIDES[name](M)
    removal = LayerMasking(Split())
    assert torch.allclose(
        removal(X, visible), removal(X, visible.clone(memory_format=torch.contiguous_format)), atol=1e-6
    )


def test_outputs_keep_their_structure_and_are_plain() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, scale: float = 1.0, *, extra: Tensor | None = None) -> dict:
            maps = OrderedDict(low=x * scale, pooled=x.mean((2, 3)))
            return {
                "maps": maps,
                "list": [x, (x.amax((2, 3)), "name")],
                "extra": extra,
                "number": 3,
                "none": None,
            }

    extra = torch.ones(2)
    out = LayerMasking(Many())(X, M, 2.0, extra=extra)
    assert isinstance(out["maps"], OrderedDict) and isinstance(out["list"][1], tuple)
    assert torch.equal(out["maps"]["low"], torch.where(M, X * 2, 0))
    assert (
        out["extra"] is extra and out["number"] == 3 and out["none"] is None and out["list"][1][1] == "name"
    )
    assert not any(
        isinstance(leaf, Masked) for leaf in (out["maps"]["pooled"], out["list"][0], out["list"][1][0])
    )


def test_the_model_is_not_changed() -> None:
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    removal = LayerMasking(model, until="conv2")
    with torch.no_grad():
        plain = model(X)
        removal(X, M)
        assert torch.equal(model(X), plain)
    assert removal.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.conv2._forward_hooks


def test_until_leaves_no_hook_behind_an_error() -> None:
    model = Residual()
    model.bn2.forward = None
    with pytest.raises(TypeError):
        LayerMasking(model, until="conv2")(X, M)
    assert not model.conv2._forward_hooks


def test_until_ends_no_other_call() -> None:
    """While one thread runs the model with `until`, another may run it without."""
    model = Residual()
    with torch.no_grad():
        alone = LayerMasking(model)(X, M)
        with _ending(model, ForwardPass(Settings(until="conv1"))):
            assert torch.equal(LayerMasking(model)(X, M), alone)
            assert torch.equal(model(X), Residual()(X))


def test_until_the_whole_model_masks_all_of_it() -> None:
    model = nn.Sequential(Residual())
    assert torch.equal(LayerMasking(model, until="0")(X, M), LayerMasking(model)(X, M))


def test_it_is_a_module() -> None:
    removal = LayerMasking(Residual(), growth="half", until="conv1")
    assert "growth='half'" in repr(removal) and "until='conv1'" in repr(removal)
    assert next(iter(removal.state_dict())) == "model.conv1.weight"
    assert not removal.training and removal.train().model.training
    assert not removal.eval().model.training
    double = copy.deepcopy(removal).double()
    assert double(X.double(), M).dtype is torch.float64 and removal(X, M).dtype is torch.float32


def test_models_without_parameters() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    out = LayerMasking(Mean())(X.double(), M)
    for image, value, seen in zip(X, out, M, strict=True):
        assert torch.allclose(value.float(), image[:, seen[0]].mean(1), atol=1e-6)


def test_sizes_that_differ_from_call_to_call() -> None:
    removal = LayerMasking(Residual())
    for size in ((8, 8), (9, 7), (2, 12), (31, 5)):
        x, visible = torch.randn(1, 3, *size), torch.rand(1, 1, *size) < 0.7
        assert torch.equal(removal(torch.where(visible, x, 9.0), visible), removal(x, visible))


def test_numbers_of_channels() -> None:
    for channels in (1, 2, 3, 13):
        model = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 2))
        x = torch.randn(2, channels, 8, 8)
        assert torch.equal(LayerMasking(model)(x, torch.ones_like(M)), model(x))
        assert torch.equal(LayerMasking(model)(x * M, M), LayerMasking(model)(torch.where(M, x, 5), M))
