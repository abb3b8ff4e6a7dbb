"""DDN: the direction and the length of the change are decided apart."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.losses import Loss, TemperedMargin
from advbench.attacks.minimal.bisection import Smallest, ask, check, nothing
from advbench.attacks.minimal.directions import Slope, farthest, follow, level
from advbench.attacks.minimal.schedule import cosine
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Radial(NamedTuple):
    """The iterate, the slope, the length (B,) it is to have, and the smallest success."""

    p: Tensor
    slope: Slope
    reach: Tensor
    best: Smallest


@final
@dataclass(frozen=True, kw_only=True)
class DDN(Rule[Radial]):
    """Decoupled direction and norm: turn by the gradient; longer after failure, shorter if fooled.

    Source: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger, "Decoupling direction and norm
    for efficient gradient-based L2 adversarial attacks and defenses", CVPR 2019, arXiv:1811.09600,
    algorithm 1. Deviations: the loss, which the paper has as ``CrossEntropy()``, is free of the
    scale of the logits; a gradient that tells nothing leaves the direction as it
    was, and is a random direction of length 1 where there was none; no rounding to 8 bits; the last
    ``bisections`` of the steps go into making the smallest success smaller, as ``bisection``
    describes. L2 alone. Cost: steps + 1 forward and steps - bisections backward passes, and another
    forward pass for a loss that wants the clean logits.

    Fields:
        start: length of the first change.
        change: by which share the length grows and shrinks.
        step_size: of a turn, in pixel units, falling along half a cosine to ``last_step_size``.
        bisections: how many of the steps only make the smallest success smaller.
        target_classes: how many of the likeliest wrong classes to head for, each in a run of its
            own; 0 for one run, to any.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    perturbation: ClassVar[Perturbation] = L2()

    loss: Loss = TemperedMargin()
    steps: int = 100
    start: float = 1.0
    change: float = 0.05
    step_size: float = 1.0
    last_step_size: float = 0.01
    bisections: int = 8
    target_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, self.steps, self.bisections)
        if not self.start > 0:
            raise ValueError(f"DDN: start must be a number above 0; got {self.start!r}")
        if not 0 < self.change < 1:
            raise ValueError(f"DDN: change must lie between 0 and 1; got {self.change!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=25, bisections=5), cls(steps=20, start=0.5, bisections=0)

    def init(self, problem: Problem) -> Radial:
        """Start at the input."""
        p = self.perturbation.zero(problem.x)
        return Radial(
            p, level(problem), torch.full_like(problem.eps, self.start), nothing(problem, p)
        )

    def step(self, state: Radial, query: Query, problem: Problem) -> Radial:
        """Turn towards the gradient, then change the length."""
        moves = self.steps - self.bisections
        probe, best = ask(self.perturbation, state.p, state.best, query, problem, moves)
        step_size = cosine(problem, moves, self.step_size, self.last_step_size)
        slope = follow(state.slope, probe.grad, problem)
        direction = unit(state.p + lift(step_size, slope.g) * slope.g)
        factor = torch.where(probe.success, 1 - self.change, 1 + self.change)
        reach = torch.minimum(state.reach * factor, farthest(self.perturbation, problem))
        p = (lift(reach, state.p) * direction).clamp(-problem.x, 1 - problem.x)
        return Radial(p, slope, reach, best)
