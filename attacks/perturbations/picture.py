"""A small picture as a value: what can be compared, hashed, written into a file and printed."""

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional


@final
@dataclass(frozen=True)
class Picture:
    """An 8-bit picture: ``shape`` (C, H, W) and its bytes in that order, as hexadecimal text.

    >>> Picture.of(torch.tensor([[[0.0, 1.0]]]))
    Picture(shape=(1, 1, 2), pixels='00ff')
    """

    shape: tuple[int, int, int]
    pixels: str

    def __post_init__(self) -> None:
        count = torch.Size(self.shape).numel()
        if len(self.shape) != 3 or min(self.shape) < 1 or len(self.pixels) != 2 * count:
            raise ValueError(
                f"Picture: shape (C, H, W) needs two hexadecimal digits for each of its values; "
                f"got {self.shape} and {len(self.pixels)} digits"
            )
        if not set(self.pixels) <= set("0123456789abcdef"):
            raise ValueError("Picture: pixels must be hexadecimal digits, 0 to 9 and a to f")

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Round values (C, H, W) in [0, 1] to 8 bits."""
        whole = (values.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
        channels, height, width = whole.shape
        return cls((channels, height, width), bytes(whole.flatten().tolist()).hex())

    def tensor(self) -> Tensor:
        """Return the values (C, H, W) in [0, 1]."""
        content = bytearray.fromhex(self.pixels)
        return torch.frombuffer(content, dtype=torch.uint8).view(self.shape).float() / 255

    def resized(self, resolution: int) -> Self:
        """Return the picture as a square of this side, by antialiased bilinear interpolation."""
        if self.shape[1:] == (resolution, resolution):
            return self
        return type(self).of(resize(self.tensor(), resolution))


def resize(values: Tensor, resolution: int) -> Tensor:
    """Bring values (C, H, W) to (C, resolution, resolution) without aliasing."""
    size = (resolution, resolution)
    return functional.interpolate(values[None], size, mode="bilinear", antialias=True)[0]
