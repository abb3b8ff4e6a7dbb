"""Diverse inputs: DI-FGSM."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift
from advbench.attacks.transfer.view import View


@final
@dataclass(frozen=True, kw_only=True)
class DiverseInputs(View):
    """Images enlarged at random, put at a random place of a black frame, and shrunk again.

    Source: Xie, Zhang, Zhou, Wang, Bai, Ren, Yuille, "Improving transferability of adversarial
    examples with input diversity", CVPR 2019, arXiv:1803.06978, section 3.3.1 (DI-FGSM, with
    momentum M-DI-FGSM). Deviations: each row has draws of its own; bounds are inclusive, so that
    the full frame and every place in it occur; the frame is rounded up to whole pixels, without
    which small images would never change; both interpolations are bilinear instead of nearest, and
    the result has the size of the image, as a model of fixed size wants it. Inputs that are no
    images (C, H, W) have no neighbours to interpolate between and are seen as they are.

    Fields:
        share: how many of the images are changed, on average; the others are seen as they are.
        rate: side of the frame as a multiple of that of the image.
        copies: independent draws per image.
    """

    share: float = 0.5
    rate: float = 1.1
    copies: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"DiverseInputs: share must lie in [0, 1]; got {self.share!r}")
        if not 1 <= self.rate < math.inf:
            raise ValueError(f"DiverseInputs: rate must be a number of at least 1; got {self.rate}")
        checks.positive("DiverseInputs: copies", self.copies)

    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        """Return the images (B, C, H, W), each enlarged and shifted by its own draws."""
        if images.dim() != 4:
            return images
        chosen, size, *places = draws.uniform((4,), images.dtype).unbind(1)
        down, across = (
            self._shifted(side, size, place)
            for side, place in zip(images.shape[2:], places, strict=True)
        )
        seen = down.unsqueeze(1) @ images @ across.mT.unsqueeze(1)
        return torch.where(lift(chosen < self.share, images), seen, images)

    def _shifted(self, side: int, size: Tensor, place: Tensor) -> Tensor:
        """Return how each pixel of a line mixes the old ones, (B, side, side).

        ``size`` and ``place`` (B,) in (0, 1) choose among whole numbers of pixels.
        """
        frame = math.ceil(side * self.rate - 1e-6)
        enlarged = side + (size * (frame - side + 1)).floor()
        before = (place * (frame - enlarged + 1)).floor()
        at = torch.arange(frame, device=size.device).to(size) - before.unsqueeze(1)
        inside = (at >= 0) & (at < enlarged.unsqueeze(1))
        framed = _interpolation(at, side / enlarged.unsqueeze(1), side) * inside.unsqueeze(2)
        rows = torch.arange(side, device=size.device).to(size)
        return _interpolation(rows, frame / side, frame) @ framed


def _interpolation(at: Tensor, scale: Tensor | float, count: int) -> Tensor:
    """Return the bilinear weights (..., count) of ``count`` pixels for those of another grid.

    Pixel ``i`` of that grid covers the pixels from ``i * scale`` to ``(i + 1) * scale``.
    """
    middle = ((at + 0.5) * scale - 0.5).clamp(0, count - 1)
    pixels = torch.arange(count, device=at.device).to(at)
    return (1 - (middle.unsqueeze(-1) - pixels).abs()).clamp_min(0)
