"""FAB: the fast adaptive boundary attack."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import Loss
from advbench.attacks.minimal.hyperplane import Lead, accept, boundary, nearest
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class FAB(Rule[Iterate]):
    """Fast adaptive boundary attack: project onto the linearised boundary, drawn to the input.

    Source: Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
    attack", ICML 2020, arXiv:1907.02044, algorithm 1; with ``target_classes=9`` it is FAB-T of
    Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, arXiv:2003.01690. Each step projects both the iterate and
    the input onto the boundary as it looks from the iterate, inside the box, and takes a convex
    combination that goes a little beyond. Deviations: no final search along the last segment, as
    in the authors' later code; the random start of a restart, half as far as the best answer or
    eps, takes for the best answer the distance of the boundary as it looks from the input, which
    is the first step of the restart; targets given by the user have to beat every other class.

    Fields:
        bias: largest weight of the step from the input.
        overshoot: how much of the way to the boundary is gone.
        backward: how much of a change that succeeds is kept.
        target_classes: with 0 all classes are linearised at each step, the nearest is headed for.

    Cost of a step: 2 forward passes, and 1 backward pass where one class is headed for, else one
    for every class. A run of FAB-T: 200 forward and 100 backward passes for each class.
    """

    access: ClassVar[Access] = "gradient"
    version: ClassVar[int] = 2
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    queries_per_step: ClassVar[int] = 2
    loss: ClassVar[Loss] = Lead()

    perturbation: Perturbation = Linf()
    steps: int = 100
    restarts: int = 1
    bias: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9
    target_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        accept("FAB", self.perturbation, Linf(), L2(), L1())
        if not 1 <= self.overshoot < float("inf"):
            raise ValueError(f"FAB: overshoot must be at least 1; got {self.overshoot!r}")
        if not 0 < self.backward <= 1:
            raise ValueError(f"FAB: backward must lie in (0, 1]; got {self.backward!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=10),
            cls(perturbation=L2(), steps=8, restarts=2, target_classes=2),
            cls(perturbation=L1(), steps=10, restarts=2),
        )

    def init(self, problem: Problem) -> Iterate:
        """Start at the input."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Project onto the linearised boundary, ask, and go back a little after a success."""
        x, p = problem.x, state.p
        lead, g, _ = boundary(self.perturbation, p, query, problem)
        short = (g * p).flatten(1).sum(1) - lead
        changes = nearest(
            self.perturbation, torch.cat([x + p, x]), torch.cat([g, g]), torch.cat([-lead, short])
        )
        here, there = changes.chunk(2)
        near, far = self.perturbation.size(x, here), self.perturbation.size(x, there)
        share = near / (near + far).clamp_min(torch.finfo(p.dtype).tiny)
        share = lift(share.clamp_max(self.bias), p)
        p = (1 - share) * (p + self.overshoot * here) + share * self.overshoot * there
        if self.restarts > 1:
            again = (problem.t == 0) & (problem.draws.stream > 0)
            radius = torch.minimum(far, problem.eps) / 2
            start = self.perturbation.draw(x, radius, problem.draws)
            p = torch.where(lift(again, p), start, p)
        p = p.clamp(-x, 1 - x)
        return Iterate(torch.where(lift(query(p).success, p), self.backward * p, p))
