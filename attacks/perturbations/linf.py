"""The maximum norm."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift


@final
@dataclass(frozen=True)
class Linf(Pixels):
    """Every coordinate may change by at most ``eps`` (pixel units, [0, 1])."""

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Clip to the ball and the box: the exact projection onto both."""
        eps = lift(eps, p)
        inside = torch.maximum(p, -eps)
        return torch.minimum(inside, eps, out=inside).clamp_(-x, 1 - x)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the largest absolute change, (B,)."""
        return p.flatten(1).abs().amax(1)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return ``length * sign(g)``."""
        return g.sign().mul_(lift(length, g))

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw every coordinate uniformly from [-eps, eps]."""
        return (draws.uniform(x.shape[1:], x.dtype) * 2 - 1) * lift(eps, x)

    def largest(self, x: Tensor) -> float:
        """Return 1, the width of the box."""
        return 1.0

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps + 1e-6``: rounding of a pixel does not shrink with ``eps``."""
        return eps + 1e-6
