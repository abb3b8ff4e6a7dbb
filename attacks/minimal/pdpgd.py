"""PDPGD: as PDGD, but the size is made smaller by its proximal operator."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam, metric
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.bisection import ask, check, nothing
from advbench.attacks.minimal.hyperplane import accept
from advbench.attacks.minimal.pdgd import PrimalDual, dual, slope, weigh
from advbench.attacks.minimal.proximal import proximal
from advbench.attacks.minimal.schedule import exponential, linear
from advbench.attacks.perturbations import L0, L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_TOLERANCE = 1e-2
_ROUNDS = 5


@final
@dataclass(frozen=True, kw_only=True)
class PDPGD(Rule[PrimalDual]):
    """Primal-dual proximal gradient descent: Adam on the loss, then shrinking by the norm itself.

    Source: Matyasko and Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack",
    2021, arXiv:2106.01538, with the settings of the authors' code. Adam descends
    ``log(1 + exp(-lead))``, and the proximal operator of the norm, in the metric of Adam, shrinks
    what it reaches; how much is weighed as in ``PDGD``. The operator in that metric is found by at
    most 5 iterations of the plain one (Melchior, Joseph, Moolekamp, "Proximal Adam", 2019,
    arXiv:1910.10094). For a count of coordinates it is that of the sum of the 2/3 powers, as the
    authors advise. Deviation: the last ``bisections`` of the steps go into making the smallest
    success smaller, as ``bisection`` describes.
    Cost: steps + 1 forward and steps - bisections backward passes.

    Fields:
        step_size: of Adam, in pixel units, falling by a constant factor to ``last_step_size``.
        dual_step: of the logarithm of the weights, falling in a line to ``last_dual_step``.
        ratio: weight of the size beside that of the class, at first.
        bisections: how many of the steps only make the smallest success smaller.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L1()
    steps: int = 500
    step_size: float = 0.1
    last_step_size: float = 0.001
    dual_step: float = 0.1
    last_dual_step: float = 0.01
    ratio: float = 0.01
    bisections: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        accept(type(self).__name__, self.perturbation, Linf(), L2(), L1(), L0())
        check(self, self.steps, self.bisections)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=30), *(cls(perturbation=p, steps=30) for p in (L2(), Linf(), L0()))

    def init(self, problem: Problem) -> PrimalDual:
        """Start at the input."""
        p = self.perturbation.zero(problem.x)
        return PrimalDual(p, Moments.zero(p), dual(problem, self.ratio), nothing(problem, p))

    def step(self, state: PrimalDual, query: Query, problem: Problem) -> PrimalDual:
        """Descend with Adam, shrink, then weigh anew."""
        moves = self.steps - self.bisections
        probe, best = ask(self.perturbation, state.p, state.best, query, problem, moves)
        step_size = exponential(problem, moves, self.step_size, self.last_step_size)
        count = problem.t + 1
        move, moments = adam(state.moments, slope(probe), count, lift(step_size, state.p))
        p = (state.p + move).clamp(-problem.x, 1 - problem.x)
        ratio = (1 - state.dual.share) / state.dual.share
        p = self._shrink(problem.x, p, metric(moments, count), ratio * step_size)
        turn = linear(problem, max(moves - 1, 1), self.dual_step, self.last_dual_step)
        return PrimalDual(p, moments, weigh(state.dual, probe.success, turn), best)

    def _shrink(self, x: Tensor, p: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
        """Minimise ``weight * size(z) + scale (z - p)^2 / 2`` over ``z``, with the box after it.

        A step of each iteration goes against the largest scale of the row.
        """
        largest = scale.flatten(1).amax(1)
        share, pull = scale / lift(largest, scale), weight / largest
        z, open_ = p, torch.ones_like(weight, dtype=torch.bool)
        for _ in range(_ROUNDS):
            new = proximal(self.perturbation, z + share * (p - z), pull).clamp(-x, 1 - x)
            new = torch.where(lift(open_, z), new, z)
            gap, length = (new - z).flatten(1).norm(dim=1), new.flatten(1).norm(dim=1)
            open_ = open_ & (gap > _TOLERANCE * length)
            z = new
        return z
