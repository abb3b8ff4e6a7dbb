"""NI-FGSM: momentum that looks ahead."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.mi_fgsm import Momentum, accumulate
from advbench.attacks.gradient.steepest import move, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


def look_ahead(
    perturbation: Perturbation, state: Momentum, problem: Problem, length: float
) -> Tensor:
    """Return the point that the momentum leads to at ``length * eps``, projected onto the set."""
    ahead = state.p + lift(problem.eps * length, state.g) * state.g
    return perturbation.project(problem.x, ahead, problem.eps)


@final
@dataclass(frozen=True, kw_only=True)
class NIFGSM(Rule[Momentum]):
    """Nesterov iterative FGSM: momentum with the gradient taken where the momentum leads.

    Source: Lin, Song, He, Wang, Hopcroft, "Nesterov accelerated gradient and scale invariance for
    adversarial attacks", ICLR 2020, arXiv:1908.06281, section 3.1. Deviations: gradients are
    divided by their mean absolute value, and the point looked at is projected onto the set, so
    that every query is a legal answer. ``step_size`` is a fraction of eps; None means 1 / steps.
    Cost: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), steps=20, step_size=0.1, decay=0.5)

    def init(self, problem: Problem) -> Momentum:
        """Start at the input without momentum."""
        start = origin(self.perturbation, problem)
        return Momentum(start, torch.zeros_like(start))

    def step(self, state: Momentum, query: Query, problem: Problem) -> Momentum:
        """Add the gradient at the look-ahead point to the momentum and move along it."""
        step_size = self.step_size or 1 / self.steps
        ahead = look_ahead(self.perturbation, state, problem, step_size * self.decay)
        g = accumulate(state.g, query(ahead, grad=True).grad, self.decay)
        return Momentum(move(self.perturbation, state.p, g, problem, step_size), g)
