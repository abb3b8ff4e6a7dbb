"""PDGD: Adam on length and loss, whose weights follow success and failure."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.bisection import Smallest, ask, check, nothing
from advbench.attacks.minimal.schedule import exponential, linear
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Access, Finds, Probe, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_MEMORY = 0.9
_LARGEST = math.log(1e6)


class Dual(NamedTuple):
    """The weight of being wrong beside being small: its logarithm, and a running share of it.

    ``log`` (B,) is that of the ratio of the two weights; ``share`` (B,), between 0 and 1, is what
    the class weighs, the size weighs the rest.
    """

    log: Tensor
    share: Tensor


def dual(problem: Problem, ratio: float) -> Dual:
    """Return the weights of fresh rows: the size weighs ``ratio`` times the class."""
    log = torch.full_like(problem.eps, -math.log(ratio))
    return Dual(log, log.sigmoid())


def weigh(old: Dual, success: Tensor, step_size: Tensor) -> Dual:
    """Make the class weigh more after a failure, less after a success."""
    log = old.log + torch.where(success, -step_size, step_size)
    log = log.clamp(-_LARGEST, _LARGEST)
    return Dual(log, _MEMORY * old.share + (1 - _MEMORY) * log.sigmoid())


def slope(probe: Probe) -> Tensor:
    """Return the gradient, to be ascended, of ``-softplus(-lead)`` for a probe of the lead.

    Zero for a row whose lead is NaN.
    """
    pull = torch.sigmoid(-probe.loss).nan_to_num(0)
    return lift(pull, probe.grad) * probe.grad


class PrimalDual(NamedTuple):
    """The iterate, the moments of its gradient, the weights, and the smallest success."""

    p: Tensor
    moments: Moments
    dual: Dual
    best: Smallest


@final
@dataclass(frozen=True, kw_only=True)
class PDGD(Rule[PrimalDual]):
    """Primal-dual gradient descent: Adam on length and loss, weighed by successes and failures.

    Source: Matyasko and Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack",
    2021, arXiv:2106.01538, with the settings of the authors' code. The loss is
    ``w0 |delta| + w1 log(1 + exp(-lead))``; after each query the logarithm of ``w1 / w0`` rises by
    the dual step if the row still fails, falls by it if not, and running means of the weights, of
    sum 1, are used. The length has no slope at the input itself, and none is added there.
    Deviation: the last ``bisections`` of the steps go into making the smallest success smaller, as
    ``bisection`` describes. L2 alone.
    Cost: steps + 1 forward and steps - bisections backward passes.

    Fields:
        step_size: of Adam, in pixel units, falling by a constant factor to ``last_step_size``.
        dual_step: of the logarithm of the weights, falling in a line to ``last_dual_step``.
        ratio: weight of the length beside that of the class, at first.
        bisections: how many of the steps only make the smallest success smaller.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()
    perturbation: ClassVar[Perturbation] = L2()

    steps: int = 500
    step_size: float = 0.1
    last_step_size: float = 0.001
    dual_step: float = 0.1
    last_dual_step: float = 0.01
    ratio: float = 0.01
    bisections: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, self.steps, self.bisections)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=30), cls(steps=40, ratio=0.1, bisections=6)

    def init(self, problem: Problem) -> PrimalDual:
        """Start at the input."""
        p = self.perturbation.zero(problem.x)
        return PrimalDual(p, Moments.zero(p), dual(problem, self.ratio), nothing(problem, p))

    def step(self, state: PrimalDual, query: Query, problem: Problem) -> PrimalDual:
        """Descend with Adam, then weigh anew."""
        moves = self.steps - self.bisections
        probe, best = ask(self.perturbation, state.p, state.best, query, problem, moves)
        share = lift(state.dual.share, state.p)
        g = share * slope(probe) - (1 - share) * unit(state.p)
        step_size = exponential(problem, moves, self.step_size, self.last_step_size)
        move, moments = adam(state.moments, g, problem.t + 1, lift(step_size, g))
        p = (state.p + move).clamp(-problem.x, 1 - problem.x)
        turn = linear(problem, max(moves - 1, 1), self.dual_step, self.last_dual_step)
        return PrimalDual(p, moments, weigh(state.dual, probe.success, turn), best)
