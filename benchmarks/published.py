"""Algorithm 1 of the paper for a ResNet, written plainly from its text: what layer masking costs undressed.

k dense rounds of neighbour filling before every k x k convolution, and masks multiplied in after every layer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Published(nn.Module):
    """Layer masking of a ResNet with bottleneck blocks, as `removal(images, visible)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        net = self.model
        x, m = _unit(images, visible.to(images.dtype), net.conv1, net.bn1, relu=True)
        x, m = net.maxpool(x), net.maxpool(m)
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in layer:
                x, m = _block(x, m, block)
        mean = (x * m).mean((2, 3)) / (m.mean((2, 3)) + 1e-8)
        return net.fc(mean)


def _block(x: Tensor, m: Tensor, block: nn.Module) -> tuple[Tensor, Tensor]:
    y, n = _unit(x, m, block.conv1, block.bn1, relu=True)
    y, n = _unit(y, n, block.conv2, block.bn2, relu=True)
    y, n = _unit(y, n, block.conv3, block.bn3, relu=False)
    if block.downsample is not None:
        x, m = _unit(x, m, block.downsample[0], block.downsample[1], relu=False)
    n = n * m
    return F.relu((x + y) * n) * n, n


def _unit(x: Tensor, m: Tensor, conv: nn.Module, norm: nn.Module, relu: bool) -> tuple[Tensor, Tensor]:
    k = conv.kernel_size[0]
    x, m = conv(_padded(x, m, k)), F.max_pool2d(m, k, conv.stride, conv.padding)
    x = norm(x * m) * m
    return (F.relu(x) * m if relu else x), m


def _padded(x: Tensor, m: Tensor, rounds: int) -> Tensor:
    x, channels = x * m, x.shape[1]
    box = x.new_ones(1, 1, 3, 3)
    for _ in range(rounds):
        near = F.conv2d(m, box, padding=1)
        total = F.conv2d(x, box.expand(channels, 1, 3, 3), padding=1, groups=channels)
        x, m = x + (1 - m) * total / (near + 1e-5), (m + near).clamp(max=1)
    return x
