"""The number of changed coordinates."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws


def _largest(strength: Tensor, eps: Tensor) -> Tensor:
    """Mark, per row of (B, d), the ``floor(eps)`` largest positive entries."""
    rank = strength.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < eps.unsqueeze(1).floor()) & (strength > 0)


@final
@dataclass(frozen=True)
class L0(Pixels):
    """At most ``eps`` coordinates may change, each anywhere in the box.

    A coordinate is one number of the input: a colour pixel counts once per changed channel.
    """

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Clip to the box and keep the ``eps`` largest changes."""
        flat = p.clamp(-x, 1 - x).flatten(1)
        return torch.where(_largest(flat.abs(), eps), flat, 0).view_as(p)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Count the changed coordinates, (B,)."""
        return (p.flatten(1) != 0).sum(1).to(p.dtype)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Move the ``length`` coordinates that gain most to their bounds.

        Rounded down like ``eps`` itself, but at least one.
        """
        flat, at = g.flatten(1), (x + p).flatten(1)
        room = torch.where(flat > 0, 1 - at, at).clamp_min(0)
        chosen = _largest(flat.abs() * room, length.clamp_min(1))
        return torch.where(chosen, flat.sign() * room, 0).view_as(g)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Choose ``eps`` coordinates at random and give each a uniform new value."""
        chosen = _largest(draws.uniform((x[0].numel(),), x.dtype), eps)
        values = draws.fork(1).uniform((x[0].numel(),), x.dtype)
        return torch.where(chosen, values - x.flatten(1), 0).view_as(x)

    def largest(self, x: Tensor) -> float:
        """Return the number of coordinates."""
        return float(x[0].numel())

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps``: a count is exact."""
        return eps
