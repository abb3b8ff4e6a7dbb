"""What the loss of an attack pays for the picture on a patch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations.picture import Picture

Colour = tuple[float, float, float]


class Penalty(ABC):
    """A price per picture; subclasses are frozen dataclasses with a ``weight``."""

    @abstractmethod
    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the price (B,) of ``pictures`` (B, C, n, n) in [0, 1], weight included."""


@final
@dataclass(frozen=True)
class TotalVariation(Penalty):
    """Roughness: the sum of absolute differences of neighbours, per pixel of the patch.

    Source: Sharif, Bhagavatula, Bauer, Reiter, "Accessorize to a crime", CCS 2016, section 5.2.2,
    there with a square root over both directions and summed over the picture.
    """

    weight: float

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the price (B,)."""
        down = pictures.diff(dim=2).abs().flatten(1).sum(1)
        across = pictures.diff(dim=3).abs().flatten(1).sum(1)
        return self.weight * (down + across) / pictures[0].numel()


_LEVELS = (0.1, 0.5, 0.9)
_NEUTRAL: tuple[Colour, ...] = tuple(product(_LEVELS, _LEVELS, _LEVELS))


@final
@dataclass(frozen=True)
class NonPrintability(Penalty):
    """Distance of each pixel to the nearest colour of a palette, averaged over the patch.

    Source: Sharif et al. 2016 (see ``TotalVariation``), section 5.2.3, who multiply the distances
    to all colours instead of taking the smallest. The default palette is a neutral lattice of 27
    colours and describes no printer: measure your own. On grey pictures the colours count as their
    means.
    """

    weight: float
    palette: tuple[Colour, ...] = _NEUTRAL

    def __post_init__(self) -> None:
        if not self.palette or not all(0 <= c <= 1 for colour in self.palette for c in colour):
            raise ValueError("NonPrintability: palette needs colours (r, g, b) in [0, 1]")

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the price (B,)."""
        colours = torch.tensor(self.palette).to(pictures)
        if pictures.shape[1] == 1:
            colours = colours.mean(1, keepdim=True)
        pixels = pictures.flatten(2).transpose(1, 2).unsqueeze(2)
        squares = (pixels - colours).square().sum(3).amin(2)
        return self.weight * (squares + 1e-12).sqrt().mean(1)


@final
@dataclass(frozen=True)
class Disguise(Penalty):
    """Distance from a base picture, beyond what is allowed per pixel, averaged over the patch.

    With a large weight the patch stays within ``distance`` of the base in the maximum norm, the
    constraint of Brown et al. 2017, arXiv:1712.09665, section 2.
    """

    weight: float
    picture: Picture
    distance: float = 0.0

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the price (B,); a base of another size is resized."""
        if self.picture.shape[0] != pictures.shape[1]:
            raise ValueError(
                f"Disguise: the base has {self.picture.shape[0]} channels, the patch has "
                f"{pictures.shape[1]}"
            )
        base = self.picture.resized(pictures.shape[-1]).tensor().to(pictures)
        excess = ((pictures - base).abs() - self.distance).clamp_min(0)
        return self.weight * excess.flatten(1).mean(1)
