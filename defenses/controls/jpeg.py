"""JPEG compression."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks.masking import Masking
from advbench.attacks.victim import BPDA
from advbench.defenses.defense import Claim, Defense

# Step sizes of the coefficients at quality 50: ITU-T T.81, tables K.1 and K.2.
_BRIGHTNESS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
# Red, green and blue to brightness and two differences of colour: ITU-T T.871.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@final
@dataclass(frozen=True, kw_only=True)
class JPEG(Defense):
    """A known-broken control: compress images as JPEG files before the finished network sees them.

    Rounding the coefficients has a gradient of zero. Source: Guo, Rana, Cisse, van der Maaten,
    Countering Adversarial Images Using Input Transformations, ICLR 2018, arXiv:1711.00117, section
    4; there networks may also be trained on compressed images, here they are not. No file is
    written: what a file loses is computed (ITU-T T.81, with the step sizes of libjpeg, and colours
    at full resolution), for its bytes lose nothing more.

    Fields:
        quality: 1 (least) to 100.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"input"})
    adaptive: ClassVar[str] = (
        "BPDA: the gradient passes the compression as if it were the identity."
    )
    broken: ClassVar[str] = (
        "Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, "
        "arXiv:1802.00420"
    )

    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"jpeg: quality must be 1 to 100; got {self.quality}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(quality=30)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network with the compression in front."""
        return nn.Sequential(Compression(self.quality), model)


class Compression(Masking):
    """Gives images the loss of a JPEG file; gradient 0.

    Raises ValueError for other than images (B, 1, H, W) or (B, 3, H, W).
    """

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Return images in [0, 1], like x, of 256 levels."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"jpeg: images must be grey or coloured, (B, 1 or 3, H, W); got {tuple(x.shape)}"
            )
        pixels = _whole(x.detach().float() * 255)
        centre = torch.tensor((128, 0, 0)[: x.shape[1]], device=x.device).view(-1, 1, 1)
        if x.shape[1] == 3:
            pixels = _mixed(pixels, _YCC).round()
        pixels = self._lossy(pixels - centre) + centre
        if x.shape[1] == 3:
            pixels = _mixed(pixels, _RGB)
        return (_whole(pixels) / 255).to(x) + 0 * x

    def stand_in(self) -> nn.Module:
        """Return the same with the gradient of the identity."""
        return BPDA(self.forward)

    def extra_repr(self) -> str:
        """Return the quality."""
        return f"quality={self.quality}"

    def _lossy(self, planes: Tensor) -> Tensor:
        """Round the coefficients of each block of 8x8 pixels, centred at 0."""
        count, channels, height, width = planes.shape
        padded = functional.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
        cosines = _cosines(planes.device)
        coefficients = torch.einsum("ui,bchiwj,vj->bchuwv", cosines, blocks, cosines)
        size = self._sizes(channels, planes.device).view(channels, 1, 8, 1, 8)
        whole = coefficients / size
        coefficients = (whole + 0.5 * whole.sign()).trunc() * size  # halves go away from 0
        blocks = torch.einsum("ui,bchuwv,vj->bchiwj", cosines, coefficients, cosines)
        again = blocks.reshape(count, channels, *padded.shape[2:])
        return again[..., :height, :width].round()

    def _sizes(self, channels: int, device: torch.device) -> Tensor:
        """The step sizes (C, 8, 8)."""
        tables = torch.tensor((_BRIGHTNESS, _COLOUR, _COLOUR)[:channels], device=device)
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        return ((tables * scale + 50) // 100).clamp(1, 255)


def _whole(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255)


def _mixed(pixels: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("dc,bchw->bdhw", torch.tensor(matrix, device=pixels.device), pixels)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform of 8 values, a row per frequency."""
    place = torch.arange(8, device=device)
    rows = torch.cos((2 * place + 1) * place.view(-1, 1) * (math.pi / 16)) / 2
    rows[0] /= math.sqrt(2)
    return rows
