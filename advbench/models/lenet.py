"""A small convolutional network, and the same without sharing."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from advbench.defenses.locally_connected import LocallyConnected2d
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
        shared: one kernel for all places; false gives each place a kernel and a bias of its own, a
            locally connected network of the same shape.
    """

    channels: tuple[int, ...] = (32, 64)
    kernel: int = 5
    hidden: int = 128
    pool: bool = True
    shared: bool = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network from (N, C, H, W) to (N, classes)."""
        width = image_channels(self, shape)
        stride = 1 if self.pool else 2
        layers: list[nn.Module] = []
        for following in self.channels:
            facts = (width, following, self.kernel, stride, (self.kernel - 1) // 2)
            if self.shared:
                layers.append(nn.Conv2d(*facts))
            else:
                _, height, across = _shape_after(layers, shape)
                layers.append(LocallyConnected2d((height, across), *facts))
            if self.pool:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.ReLU())
            width = following
        layers.append(nn.Flatten())
        (flat,) = _shape_after(layers, shape)
        return nn.Sequential(
            *layers, nn.Linear(flat, self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
        )


def _shape_after(layers: list[nn.Module], shape: tuple[int, ...]) -> tuple[int, ...]:
    """What layers make of the shape of one image."""
    with torch.no_grad():
        return tuple(nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1:])
