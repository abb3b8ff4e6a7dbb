"""Shapes of a patch: how much of each texel of a square is opaque."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.perturbations.picture import Picture

CORNERS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
"""Of the square in which a shape lies."""

_FINER = 8  # samples per texel and axis when a shape is drawn
_SIDES = 64


class Mask(ABC):
    """A shape inside the square [-1, 1]²; subclasses are frozen dataclasses."""

    @abstractmethod
    def alpha(self, resolution: int) -> Tensor:
        """Return the opacity of the texels, (resolution, resolution) in [0, 1]."""

    @abstractmethod
    def outline(self) -> Tensor:
        """Return the corners (n, 2) of a convex polygon around the shape."""


@lru_cache(maxsize=64)
def opacity(mask: Mask, resolution: int) -> Tensor:
    """Return ``mask.alpha(resolution)``, made once; not to be written to."""
    return mask.alpha(resolution)


@final
@dataclass(frozen=True)
class Square(Mask):
    """The whole square."""

    def alpha(self, resolution: int) -> Tensor:
        """Return ones."""
        return torch.ones(resolution, resolution)

    def outline(self) -> Tensor:
        """Return the four corners."""
        return CORNERS


@final
@dataclass(frozen=True)
class Circle(Mask):
    """The largest disc inside the square."""

    def alpha(self, resolution: int) -> Tensor:
        """Return the share of each texel that lies inside."""
        middle = (torch.arange(resolution * _FINER) + 0.5) / (resolution * _FINER) * 2 - 1
        inside = (middle.square().unsqueeze(1) + middle.square() <= 1).float()
        return functional.avg_pool2d(inside[None, None], _FINER)[0, 0]

    def outline(self) -> Tensor:
        """Return a polygon that touches the disc from outside."""
        angle = torch.arange(_SIDES) * (2 * math.pi / _SIDES)
        return torch.stack([angle.cos(), angle.sin()], 1) / math.cos(math.pi / _SIDES)


@final
@dataclass(frozen=True)
class Cutout(Mask):
    """Any shape, given as a grey picture of its opacity."""

    picture: Picture

    def __post_init__(self) -> None:
        if self.picture.shape[0] != 1 or not bool(self.picture.tensor().any()):
            raise ValueError(
                f"Cutout: picture must have one channel, opaque somewhere; got {self.picture!r:.80}"
            )

    def alpha(self, resolution: int) -> Tensor:
        """Return the picture at this resolution."""
        return self.picture.resized(resolution).tensor()[0]

    def outline(self) -> Tensor:
        """Return the four corners of the square."""
        return CORNERS
