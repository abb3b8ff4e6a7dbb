"""The sum norm."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift


@final
@dataclass(frozen=True)
class L1(Pixels):
    """The absolute changes may add up to at most ``eps``."""

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Project exactly onto the intersection of the ball and the box.

        The answer is ``clip(soft_threshold(p, shift))``; the sum of its absolute values falls
        piecewise linearly in ``shift``, so the shift is found by sorting the kinks.
        Source: Croce and Hein, "Mind the box: l1-APGD", ICML 2021, arXiv:2103.01208, section 2.
        """
        flat = p.flatten(1)
        magnitude = flat.abs()
        room = torch.where(flat > 0, 1 - x.flatten(1), x.flatten(1)).clamp_min(0)
        kinks = torch.cat([(magnitude - room).clamp_min(0), magnitude], dim=1)
        # The sum falls by one per unit past the first kink of a coordinate, until its second.
        slopes = torch.cat([-torch.ones_like(magnitude), torch.ones_like(magnitude)], dim=1)
        kinks, order = kinks.sort(dim=1)
        slopes = slopes.gather(1, order).cumsum(1)
        start = torch.minimum(magnitude, room).sum(1, keepdim=True)
        drops = (slopes[:, :-1] * kinks.diff(dim=1)).cumsum(1)
        sums = torch.cat([start, start + drops], dim=1)
        last = ((sums > eps.unsqueeze(1)).sum(1, keepdim=True) - 1).clamp_min(0)
        excess = sums.gather(1, last) - eps.unsqueeze(1)
        slope = -slopes.gather(1, last).clamp_max(-1)
        shift = torch.where(excess > 0, kinks.gather(1, last) + excess / slope, 0)
        kept = torch.minimum((magnitude - shift).clamp_min(0), room)
        # Cancellation in the sums can leave the result a rounding above eps: scale that off.
        total = kept.sum(1, keepdim=True)
        kept = kept * (eps.unsqueeze(1) / total.clamp_min(torch.finfo(p.dtype).tiny)).clamp_max(1)
        return (kept * flat.sign()).view_as(p)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the sum of the absolute changes, (B,)."""
        return p.flatten(1).abs().sum(1)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Move coordinates to their bounds, best gain first, until ``length`` is spent."""
        flat, at = g.flatten(1), (x + p).flatten(1)
        room = torch.where(flat > 0, 1 - at, at).clamp_min(0) * (flat != 0)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order)
        left = length.unsqueeze(1) - (room.cumsum(1) - room)
        step = torch.zeros_like(flat).scatter(1, order, torch.minimum(room, left.clamp_min(0)))
        return (step * flat.sign()).view_as(g)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw uniformly from the ball: a Laplace direction, radius ``eps * u^(1/d)``."""
        u = draws.uniform(x.shape[1:], x.dtype) * 2 - 1
        laplace = (-u.sign() * torch.log1p(-u.abs())).flatten(1)
        direction = laplace / laplace.abs().sum(1, keepdim=True)
        share = draws.fork(1).uniform((), x.dtype) ** (1 / x[0].numel())
        return direction.view_as(x) * lift(eps * share, x)

    def largest(self, x: Tensor) -> float:
        """Return the number of coordinates: each may cross the whole box."""
        return float(x[0].numel())

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps`` with the relative rounding of a long 32-bit sum."""
        return eps * (1 + 1e-5)
