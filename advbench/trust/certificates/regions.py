"""What the adversary may make of the images: a ball of a norm, cut off at the box [0, 1]."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.trust.certificates.network import Stage
from advbench.trust.certificates.rows import Interval, dot, least_in_box

_HALVINGS = 25


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """All images that samples ``x`` (B, n), flat and in [0, 1], may turn into; eps is (B,)."""

    x: Tensor
    eps: Tensor

    @property
    def box(self) -> Interval:
        """The range of each pixel: no pixel changes by more than eps in any of the norms."""
        eps = self.eps.unsqueeze(1)
        return Interval((self.x - eps).clamp_min(0), (self.x + eps).clamp_max(1))

    @abstractmethod
    def least(self, matrix: Tensor, exact: bool) -> Tensor:
        """Bound ``matrix @ image`` from below over the region; (B, R, n) to (B, R).

        ``exact`` asks for the least value itself, which may take longer.
        """

    @abstractmethod
    def narrow(self, stage: Stage, bounds: Interval) -> Interval:
        """Improve the bounds that the box gives the first stage, (B, n_after), by the norm."""

    @final
    def take(self, index: Tensor | slice) -> Self:
        """Select samples."""
        return replace(self, x=self.x[index], eps=self.eps[index])

    @final
    def double(self) -> Self:
        """Return the same in 64 bits."""
        return replace(self, x=self.x.double(), eps=self.eps.double())


@final
class Cube(Region):
    """The maximum norm: ball and box make another box."""

    def least(self, matrix: Tensor, exact: bool) -> Tensor:
        """Return the exact least value."""
        return least_in_box(matrix, self.box)

    def narrow(self, stage: Stage, bounds: Interval) -> Interval:
        """Return the bounds: the box says it all."""
        return bounds


class NormBall(Region):
    """A norm whose ball has to be cut with the box.

    For any share ``s`` in [0, 1] of the price that the dual problem puts on the norm, its value is
    a lower bound: 0 forgets the ball, 1 is right where the box is not active. It is concave in
    ``s``, so halving finds the best, which is exact.
    """

    @abstractmethod
    def _length(self, matrix: Tensor) -> Tensor:
        """The dual norm of (..., n)."""

    @abstractmethod
    def _value(self, unit: Tensor, room: Interval, share: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope of the dual problem, (B, R), in a ball of radius 1.

        The rows are scaled to dual norm 1 and the room (B, 1, n) to the radius; the share is (B,
        R, 1).
        """

    @final
    def narrow(self, stage: Stage, bounds: Interval) -> Interval:
        """Let no output change by more than eps times the dual norm of its weights."""
        reach = torch.cat([self._length(rows.matrix[0]) for rows in stage.blocks()])
        middle, change = stage.affine(self.x), self.eps.unsqueeze(1) * reach
        low, high = middle - change, middle + change
        return Interval(torch.maximum(bounds.low, low), torch.minimum(bounds.high, high))

    @final
    def least(self, matrix: Tensor, exact: bool) -> Tensor:
        """Return the best value that was looked at: both ends, and what halving finds."""
        length = self._length(matrix).unsqueeze(2)
        unit = matrix / torch.where(length > 0, length, 1)
        scale = torch.where(self.eps > 0, self.eps, 1).view(-1, 1, 1)
        x, box = self.x.unsqueeze(1), self.box
        room = Interval((box.low.unsqueeze(1) - x) / scale, (box.high.unsqueeze(1) - x) / scale)
        forgets = least_in_box(unit, Interval(*(end.squeeze(1) for end in room)))
        low, high = torch.zeros_like(length), torch.ones_like(length)
        best = torch.maximum(forgets, self._value(unit, room, high)[0])
        for _ in range(_HALVINGS if exact else 0):
            share = (low + high) / 2
            value, slope = self._value(unit, room, share)
            best = torch.maximum(best, value)
            rises = slope.unsqueeze(2) > 0
            low, high = torch.where(rises, share, low), torch.where(rises, high, share)
        return dot(matrix, self.x) + length.squeeze(2) * self.eps.unsqueeze(1) * best


@final
class Sphere(NormBall):
    """The Euclidean norm."""

    def _length(self, matrix: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(matrix, dim=-1)
        return length

    def _value(self, unit: Tensor, room: Interval, share: Tensor) -> tuple[Tensor, Tensor]:
        delta = torch.minimum(torch.maximum(-unit / share, room.low), room.high)
        square = delta.square()
        value = (unit * delta + share / 2 * square).sum(2) - share.squeeze(2) / 2
        return value, square.sum(2) - 1


@final
class Diamond(NormBall):
    """The sum norm."""

    def _length(self, matrix: Tensor) -> Tensor:
        return matrix.abs().amax(-1)

    def _value(self, unit: Tensor, room: Interval, share: Tensor) -> tuple[Tensor, Tensor]:
        free = torch.where(unit > 0, -room.low, room.high)
        gain = (unit.abs() - share).clamp_min(0)
        return -(free * gain).sum(2) - share.squeeze(2), (free * (gain > 0)).sum(2) - 1


REGIONS: dict[type[Perturbation], type[Region]] = {Linf: Cube, L2: Sphere, L1: Diamond}
"""The sets that have bounds, and their geometry."""
