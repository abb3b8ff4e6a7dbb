"""A small convolutional network."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from advbench.models.architecture import Architecture, image_channels


@final
@dataclass(frozen=True)
class LeNet(Architecture):
    """Convolutions that each halve the image, then one hidden layer; ReLU throughout.

    After LeCun et al., Gradient-based learning applied to document recognition, Proceedings of the
    IEEE 86(11), 1998.

    Fields:
        channels: output channels of the convolutions, as many as wanted.
        kernel: side of the convolutions' kernels.
        hidden: width of the hidden layer.
        pool: halve by 2x2 max-pooling; otherwise by a stride of 2, which is cheaper.
    """

    channels: tuple[int, ...] = (32, 64)
    kernel: int = 5
    hidden: int = 128
    pool: bool = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network from (N, C, H, W) to (N, classes)."""
        width = image_channels(self, shape)
        stride = 1 if self.pool else 2
        layers: list[nn.Module] = []
        for following in self.channels:
            padding = (self.kernel - 1) // 2
            layers.append(nn.Conv2d(width, following, self.kernel, stride, padding))
            if self.pool:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.ReLU())
            width = following
        layers.append(nn.Flatten())
        with torch.no_grad():
            flat = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
        return nn.Sequential(
            *layers, nn.Linear(flat, self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
        )
