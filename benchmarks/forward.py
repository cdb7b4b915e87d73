"""Layer masking against the plain model: time, peak memory, explaining, import. `make bench` runs it.

The two sides alternate in one process, and medians are quoted: the machine may be noisy. Models have random
weights, which cost what trained ones do. Sections of docs/benchmarks.md are written anew.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from page import peak_memory, write_section
from torch import Tensor, nn
from torch.nn import functional as F

from layermask import LayerMasking

MODELS = ("resnet50", "mobilenet_v2", "densenet121", "convnext_tiny", "vit_b_16")


def patches(batch: int, shown: float = 0.5, side: int = 16, size: int = 224) -> Tensor:
    """Random masks (batch, 1, size, size) of side x side patches, `shown` of them visible."""
    cells = (size // side) ** 2
    order = torch.stack([torch.randperm(cells) for _ in range(batch)])
    grid = (order < shown * cells).reshape(batch, 1, size // side, size // side)
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)


def published(model: nn.Module, images: Tensor, visible: Tensor) -> Tensor:
    """Algorithm 1 for a ResNet written plainly: k dense fill rounds per convolution, masks multiplied in."""
    return _Published(model)(images, visible.float())


class _Published:
    def __init__(self, model: nn.Module) -> None:
        self.net = model

    def __call__(self, x: Tensor, m: Tensor) -> Tensor:
        net = self.net
        x, m = self._unit(x, m, net.conv1, net.bn1, relu=True)
        x, m = net.maxpool(x), net.maxpool(m)
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in layer:
                x, m = self._block(x, m, block)
        mean = (x * m).mean((2, 3)) / (m.mean((2, 3)) + 1e-8)
        return net.fc(mean)

    def _block(self, x: Tensor, m: Tensor, b: nn.Module) -> tuple[Tensor, Tensor]:
        y, n = self._unit(x, m, b.conv1, b.bn1, relu=True)
        y, n = self._unit(y, n, b.conv2, b.bn2, relu=True)
        y, n = self._unit(y, n, b.conv3, b.bn3, relu=False)
        if b.downsample is not None:
            x, m = self._unit(x, m, b.downsample[0], b.downsample[1], relu=False)
        n = n * m
        return F.relu((x + y) * n) * n, n

    def _unit(
        self, x: Tensor, m: Tensor, conv: nn.Conv2d, norm: nn.Module, relu: bool
    ) -> tuple[Tensor, Tensor]:
        k = conv.kernel_size[0]
        x, m = conv(_padded(x, m, k)), F.max_pool2d(m, k, conv.stride, conv.padding)
        x = norm(x * m) * m
        return (F.relu(x) * m if relu else x), m


def _padded(x: Tensor, m: Tensor, rounds: int) -> Tensor:
    x, channels = x * m, x.shape[1]
    box = x.new_ones(1, 1, 3, 3)
    for _ in range(rounds):
        near, total = (
            F.conv2d(m, box, padding=1),
            F.conv2d(x, box.expand(channels, 1, 3, 3), padding=1, groups=channels),
        )
        x, m = x + (1 - m) * total / (near + 1e-5), (m + near).clamp(max=1)
    return x


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each side, the sides taking turns."""
    for call in sides.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str = "plain") -> str:
    """Median of the round-by-round ratios, with their middle half."""
    ratios = sorted(a / b for a, b in zip(times[name], times[base], strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"


def forward_row(name: str, batch: int, rounds: int) -> str:
    """Plain seconds, layer masking over plain, and for ResNet-50 the published algorithm over plain."""
    from torchvision.models import get_model

    model = get_model(name, weights=None).eval()
    images, visible, removal = torch.randn(batch, 3, 224, 224), patches(batch), LayerMasking(model)
    sides = {"plain": lambda: model(images), "masked": lambda: removal(images, visible)}
    if name == "resnet50":
        sides["published"] = lambda: published(model, images, visible)
    times = alternate(sides, rounds)
    other = ratio(times, "published") if "published" in times else ""
    row = f"| {name} | {statistics.median(times['plain']):.2f} | {ratio(times, 'masked')} | {other} |"
    print(row, flush=True)
    return row


def peak_row(batch: int) -> str:
    """Peak memory of a forward pass above what model and images take."""
    setup = (
        "from torchvision.models import get_model\n"
        "from forward import LayerMasking, patches\n"
        "model = get_model('resnet50', weights=None).eval()\n"
        f"images, visible = torch.randn({batch}, 3, 224, 224), patches({batch})\n"
        "removal = LayerMasking(model)\n"
        "torch.set_grad_enabled(False)"
    )
    plain = peak_memory(setup, "model(images)")
    masked = peak_memory(setup, "removal(images, visible)")
    row = f"Peak memory, ResNet-50, batch {batch}: plain {plain:.0f} MiB, layer masking {masked:.0f} MiB, "
    return row + f"ratio {masked / plain:.2f}."


def explaining_row(samples: int, batch: int) -> str:
    """LIME end to end over the same masked forwards alone."""
    from layermask.explain.lime import Lime
    from layermask.zoo import load

    model = load("builtin").model
    removal = LayerMasking(model)
    image = torch.randn(1, 3, 224, 224)
    segments = torch.arange(14).repeat_interleave(16)
    segments = segments[:, None] * 14 + segments
    masks = [patches(batch) for _ in range(samples // batch)]
    sides = {
        "plain": lambda: [removal(image, visible) for visible in masks],
        "lime": lambda: Lime(removal, n_samples=len(masks) * batch, perturbations_per_eval=batch).attribute(
            image, target=0, feature_mask=segments
        ),
    }
    times = alternate(sides, 3)
    return (
        f"LIME with {len(masks) * batch} samples over 196 patches, EfficientNet-Lite0, batch {batch}: "
        f"{statistics.median(times['lime']):.1f} s, {ratio(times, 'lime')} times the masked forwards alone."
    )


def start_row() -> str:
    """Seconds that the import adds to torch's, and until the command answers."""

    def seconds(*command: str) -> float:
        takes = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            takes.append(time.perf_counter() - start)
        return statistics.median(takes)

    torch_alone = seconds(sys.executable, "-c", "import torch")
    with_ours = seconds(sys.executable, "-c", "import torch, layermask; layermask.LayerMasking")
    answer = seconds(str(Path(sys.executable).with_name("layermask")), "--help")
    return (
        f"Torch and the engine import in {with_ours:.2f} s, torch alone in {torch_alone:.2f} s: "
        f"{with_ours - torch_alone:.2f} s more. `layermask --help` answers within {answer:.2f} s."
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--samples", type=int, default=1000)
    given = options.parse_args()
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = [forward_row(name, given.batch, given.rounds) for name in MODELS]
        lines = [peak_row(given.batch), explaining_row(given.samples, 50), start_row()]
    head = [
        f"Batch {given.batch}, 224x224, half of the 16x16 patches hidden, float32, eager, "
        f"{given.rounds} rounds.",
        "",
        "| model | plain, s | layer masking / plain | the paper's algorithm written plainly / plain |",
        "|---|---|---|---|",
    ]
    write_section("Forward pass", [*head, *rows])
    write_section("Memory, explaining, start", [part for line in lines for part in (line, "")])


if __name__ == "__main__":
    main()
