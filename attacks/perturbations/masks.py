"""Shapes of a patch: how much of each texel of a square is opaque."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.perturbations.picture import Picture

_FINER = 8  # samples per texel and axis when a shape is drawn


class Mask(ABC):
    """A shape inside the square [-1, 1]²; subclasses are frozen dataclasses."""

    @abstractmethod
    def alpha(self, resolution: int) -> Tensor:
        """Return the opacity of the texels, (resolution, resolution) in [0, 1]."""


@lru_cache(maxsize=64)
def opacity(mask: Mask, resolution: int) -> Tensor:
    """Return ``mask.alpha(resolution)``, made once; not to be written to."""
    return mask.alpha(resolution)


@lru_cache(maxsize=64)
def outline(mask: Mask, resolution: int) -> Tensor:
    """Return the centres (n, 2) of the first and last texel of each row that is not clear."""
    rows, columns = (opacity(mask, resolution) > 0).nonzero().unbind(1)
    ends = [(row, columns[rows == row]) for row in rows.unique().tolist()]
    places = [(int(end), row) for row, held in ends for end in (held.min(), held.max())]
    return (torch.tensor(places) + 0.5) / resolution * 2 - 1


@final
@dataclass(frozen=True)
class Square(Mask):
    """The whole square."""

    def alpha(self, resolution: int) -> Tensor:
        """Return ones."""
        return torch.ones(resolution, resolution)


@final
@dataclass(frozen=True)
class Circle(Mask):
    """The largest disc inside the square."""

    def alpha(self, resolution: int) -> Tensor:
        """Return the share of each texel that lies inside."""
        middle = (torch.arange(resolution * _FINER) + 0.5) / (resolution * _FINER) * 2 - 1
        inside = (middle.square().unsqueeze(1) + middle.square() <= 1).float()
        return functional.avg_pool2d(inside[None, None], _FINER)[0, 0]


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
