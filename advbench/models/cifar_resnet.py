"""The residual networks of the ResNet paper for images of 32x32 pixels."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn import functional

from advbench.models.architecture import Architecture, image_channels


@final
@dataclass(frozen=True)
class CifarResNet(Architecture):
    """Residual network of depth 6n + 2 with parameter-free shortcuts (option A).

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385,
    section 4.2.

    Fields:
        depth: 20, 32, 44, 56 or 110 in the paper; any 6n + 2 is accepted.
    """

    depth: int = 20

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"cifar_resnet: depth must be 6n + 2 (20, 32, …); got {self.depth}")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network from (N, C, H, W) to (N, classes)."""
        return _ResNet(image_channels(self, shape), (self.depth - 2) // 6, classes)


class _Block(nn.Module):
    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.added = planes - channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.added // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, self.added - before))
        return functional.relu(out + shortcut)


class _ResNet(nn.Module):
    def __init__(self, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    following = [_Block(planes, planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Block(channels, planes, stride), *following)
