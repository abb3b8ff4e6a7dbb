"""Sparse descent in the sum norm."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.gradient.apgd_l1 import movable, sparse_step
from advbench.attacks.gradient.steepest import Iterate, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L1, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class SparseL1Descent(Rule[Iterate]):
    """Sparse L1 descent (SLIDE): equal steps on the few coordinates of largest gradient, projected.

    Source: Tramer, Boneh, "Adversarial training and robustness for multiple perturbations",
    NeurIPS 2019, arXiv:1904.13000, section 4 and algorithm 1. As there, a coordinate at a bound
    of the box that it would leave is passed over. Deviation: the projection is onto the ball and
    the box together, not onto one after the other. ``step_size`` is a fraction of eps.

    Fields:
        share: share of the coordinates that a step moves; the paper's percentile is 1 - share.

    Cost of a run: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"
    perturbation: ClassVar[Perturbation] = L1()

    loss: Loss = CrossEntropy()
    steps: int = 20
    step_size: float = 0.1
    share: float = 0.01
    restarts: int = 1
    random_start: bool = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(steps=15, step_size=0.2, share=0.2, restarts=2, random_start=True)

    def init(self, problem: Problem) -> Iterate:
        """Start at the input, or at a uniform draw from the ball."""
        if not self.random_start:
            return Iterate(origin(self.perturbation, problem))
        start = self.perturbation.draw(problem.x, problem.eps, problem.draws)
        return Iterate(self.perturbation.project(problem.x, start, problem.eps))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Move the coordinates of largest gradient that have room left."""
        g = movable(problem.x, state.p, query(state.p, grad=True).grad)
        count = problem.x[0].numel()
        kept = torch.full_like(problem.t, min(max(round(self.share * count), 1), count))
        step = sparse_step(g, kept, self.step_size * problem.eps)
        return Iterate(self.perturbation.project(problem.x, state.p + step, problem.eps))
