"""The Euclidean norm."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift

_ROUNDS = 3


def unit(v: Tensor) -> Tensor:
    """Scale each row to Euclidean length 1; zero rows stay zero.

    Dividing by the largest entry first keeps squares of tiny gradients from underflowing.
    """
    flat = v.flatten(1)
    peak = flat.abs().amax(1, keepdim=True)
    flat = flat / torch.where(peak > 0, peak, 1)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return (flat / torch.where(length > 0, length, 1)).view_as(v)


@final
@dataclass(frozen=True)
class L2(Pixels):
    """The change as a whole may have Euclidean length at most ``eps``."""

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Scale into the ball and clip to the box, giving back the length that the clip took.

        The exact projection onto both is ``clip(s * p)`` for one factor ``s`` per row. The factor
        is approached from below (fixed-point iteration over which coordinates are clipped), so
        each iterate is legal; away from the box the first one is exact.
        """
        flat, low, high = p.flatten(1), -x.flatten(1), (1 - x).flatten(1)
        square = flat.square()
        tiny = torch.finfo(p.dtype).tiny
        scale = (eps / square.sum(1).sqrt().clamp_min(tiny)).clamp_max(1)
        for _ in range(_ROUNDS):
            scaled = flat * scale.unsqueeze(1)
            clipped = scaled.clamp(low, high)
            free = (square * (clipped == scaled)).sum(1)
            fixed = clipped.square().sum(1) - scale.square() * free
            wanted = ((eps.square() - fixed).clamp_min(0) / free.clamp_min(tiny)).sqrt()
            scale = torch.maximum(scale, wanted.clamp_max(1))
        projected: Tensor = (flat * scale.unsqueeze(1)).clamp(low, high)
        return projected.view_as(p)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the Euclidean length of the change, (B,)."""
        norm: Tensor = torch.linalg.vector_norm(p.flatten(1), dim=1)
        return norm

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return ``length * g / |g|``."""
        return unit(g) * lift(length, g)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw uniformly from the ball: a Gaussian direction, radius ``eps * u^(1/d)``."""
        direction = unit(draws.normal(x.shape[1:], x.dtype))
        share = draws.fork(1).uniform((), x.dtype) ** (1 / x[0].numel())
        return direction * lift(eps * share, x)

    def largest(self, x: Tensor) -> float:
        """Return the diagonal of the box."""
        return float(x[0].numel() ** 0.5)

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps`` with the relative rounding of a long 32-bit sum."""
        return eps * (1 + 1e-5)
