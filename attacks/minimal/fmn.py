"""FMN: steps along the gradient inside a ball whose size follows the boundary."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.bisection import Smallest, ask, check, nothing
from advbench.attacks.minimal.directions import Slope, farthest, follow, level
from advbench.attacks.minimal.hyperplane import accept, dual
from advbench.attacks.minimal.schedule import cosine
from advbench.attacks.perturbations import L0, L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_BELOW = 1 - 1e-4
"""Size of a ball beside that of the smallest success, so that no rounding decides between them."""


class Ball(NamedTuple):
    """The iterate, the slope, the size (B,) of the ball, and the smallest success."""

    p: Tensor
    slope: Slope
    reach: Tensor
    best: Smallest


@final
@dataclass(frozen=True, kw_only=True)
class FMN(Rule[Ball]):
    """Fast minimum norm: steps along the gradient in a ball that shrinks once the row is fooled.

    Source: Pintor, Roli, Brendel, Biggio, "Fast minimum-norm adversarial attacks through adaptive
    norm constraints", NeurIPS 2021, arXiv:2102.12827, algorithm 1. Until the first success the ball
    reaches the boundary as the gradient has it. Deviations: it reaches past it by ``change``, since
    on a linear model the boundary itself is never crossed; a ball as large as the smallest success
    is a touch smaller; projections are onto ball and box
    together; the last ``bisections`` of the steps go into making the smallest success smaller, as
    ``bisection`` describes. Sets Linf, L2, L1 and L0.
    Cost: steps + 1 forward and steps - bisections backward passes.

    Fields:
        step_size: in pixel units, along the gradient at Euclidean length 1 for every set; it falls
            along half a cosine to ``last_step_size``.
        change: by which share the ball grows and shrinks, falling likewise to ``last_change``.
        bisections: how many of the steps only make the smallest success smaller.
        target_classes: how many of the likeliest wrong classes to head for, each in a run of its
            own; 0 for one run, to any.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L2()
    steps: int = 100
    step_size: float = 1.0
    last_step_size: float = 0.01
    change: float = 0.05
    last_change: float = 0.001
    bisections: int = 8
    target_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        accept(type(self).__name__, self.perturbation, Linf(), L2(), L1(), L0())
        check(self, self.steps, self.bisections)
        if not 0 <= self.last_change <= self.change < 1:
            raise ValueError(
                "FMN: change must lie below 1 and last_change between 0 and it; got "
                f"{self.change!r} and {self.last_change!r}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return tuple(cls(perturbation=p, steps=20) for p in (L2(), Linf(), L1(), L0()))

    def init(self, problem: Problem) -> Ball:
        """Start at the input."""
        p = self.perturbation.zero(problem.x)
        first = 1 if isinstance(self.perturbation, L0) else torch.inf
        return Ball(p, level(problem), torch.full_like(problem.eps, first), nothing(problem, p))

    def step(self, state: Ball, query: Query, problem: Problem) -> Ball:
        """Change the ball, take a step and project onto it."""
        moves = self.steps - self.bisections
        probe, best = ask(self.perturbation, state.p, state.best, query, problem, moves)
        change = cosine(problem, moves, self.change, self.last_change)
        less, more = state.reach * (1 - change), state.reach * (1 + change)
        if isinstance(self.perturbation, L0):
            known = best.size
            less = torch.minimum(less.floor(), state.reach - 1)
            more = torch.maximum(more.floor(), state.reach + 1)
        else:
            known = best.size * _BELOW
            gap = (probe.loss.abs() / dual(self.perturbation, probe.grad)).nan_to_num(0, torch.inf)
            reach = (self.perturbation.size(problem.x, state.p) + gap) * (1 + change)
            more = torch.where(best.size < torch.inf, more, reach)
        less = torch.minimum(less, known).clamp_min(0)
        reach = torch.where(probe.success, less, more)
        reach = torch.minimum(reach, farthest(self.perturbation, problem))
        step_size = cosine(problem, moves, self.step_size, self.last_step_size)
        slope = follow(state.slope, probe.grad, problem)
        p = state.p + lift(step_size, slope.g) * slope.g
        return Ball(self.perturbation.project(problem.x, p, reach), slope, reach, best)
