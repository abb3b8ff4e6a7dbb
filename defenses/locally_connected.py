"""A convolution that shares nothing."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class LocallyConnected2d(nn.Module):
    """A convolution with a kernel and a bias of its own at each place: images (B, C, H, W) to maps.

    Each place's kernel and bias are drawn as those of ``nn.Conv2d`` are. The parameters are
    ``weight`` (places, out_channels, in_channels * kernel_size**2), whose last dimension is a
    flattened kernel, and ``bias`` (places, out_channels); places go along the rows of the output.

    Args:
        size: height and width of the images.
        in_channels: channels of the images.
        out_channels: channels of the output.
        kernel_size: side of the kernels.
        stride: steps from place to place.
        padding: zeros added on each side.

    Raises:
        ValueError: a kernel does not fit in the images.

    """

    def __init__(
        self,
        size: tuple[int, int],
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.kernel_size, self.stride, self.padding = size, kernel_size, stride, padding
        self.in_channels, self.out_channels = in_channels, out_channels
        height, width = ((side + 2 * padding - kernel_size) // stride + 1 for side in size)
        if min(height, width) < 1:
            raise ValueError(
                f"LocallyConnected2d: a kernel of side {kernel_size} does not fit in images of "
                f"{size[0]}x{size[1]} with padding {padding}"
            )
        self.places = (height, width)
        fan_in = in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.empty(height * width, out_channels, fan_in))
        self.bias = nn.Parameter(torch.empty(height * width, out_channels))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps (B, out_channels, H', W')."""
        return self.connect(x, self.weight, self.bias)

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the maps that other weights give."""
        if x.shape[2:] != self.size:
            raise ValueError(
                f"LocallyConnected2d: built for images of {self.size[0]}x{self.size[1]}; "
                f"got {tuple(x.shape)}"
            )
        seen = functional.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        out = torch.baddbmm(bias.unsqueeze(1), seen.permute(2, 0, 1), weight.transpose(1, 2))
        maps: Tensor = out.permute(1, 2, 0).unflatten(2, self.places)
        return maps

    def shared(self) -> nn.Conv2d:
        """Return the convolution that has the kernel and bias of the first place everywhere."""
        convolution: nn.Conv2d = nn.utils.skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
        )
        with torch.no_grad():
            convolution.weight.copy_(self.weight[0].view_as(convolution.weight))
            if convolution.bias is not None:
                convolution.bias.copy_(self.bias[0])
        return convolution

    def extra_repr(self) -> str:
        """Return the facts that ``repr`` shows."""
        return (
            f"{self.in_channels}, {self.out_channels}, size={self.size}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        )
