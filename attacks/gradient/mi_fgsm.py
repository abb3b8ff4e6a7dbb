"""MI-FGSM: momentum."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.steepest import move, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Momentum(NamedTuple):
    """The iterate and the running sum of gradients."""

    p: Tensor
    g: Tensor


def accumulate(g: Tensor, gradient: Tensor, decay: float) -> Tensor:
    """Return ``decay * g + gradient / mean|gradient|``; a zero gradient adds nothing."""
    mean = gradient.flatten(1).abs().mean(1)
    return decay * g + gradient / lift(torch.where(mean > 0, mean, 1), gradient)


@final
@dataclass(frozen=True, kw_only=True)
class MIFGSM(Rule[Momentum]):
    """Momentum iterative FGSM: steepest steps along a decaying sum of normalised gradients.

    Source: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018,
    arXiv:1710.06081, algorithm 1. Deviation: gradients are divided by their mean absolute value,
    the paper's L1 norm up to a constant that the sign ignores. ``step_size`` is a fraction of eps;
    None means 1 / steps. Added to the paper: with ``anneal`` the steps shrink along half a cosine,
    which a noisy gradient wants. Cost: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    anneal: bool = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), steps=20, step_size=0.1, decay=0.5, anneal=True)

    def init(self, problem: Problem) -> Momentum:
        """Start at the input without momentum."""
        start = origin(self.perturbation, problem)
        return Momentum(start, torch.zeros_like(start))

    def step(self, state: Momentum, query: Query, problem: Problem) -> Momentum:
        """Add the gradient to the momentum and move along it."""
        g = accumulate(state.g, query(state.p, grad=True).grad, self.decay)
        step_size = torch.full_like(problem.eps, self.step_size or 1 / self.steps)
        if self.anneal:
            step_size = step_size * (1 + torch.cos(math.pi * problem.t / self.steps)) / 2
        return Momentum(move(self.perturbation, state.p, g, problem, step_size), g)
