"""ALMA: an augmented Lagrangian of the size and of the constraint that the row is fooled."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.bisection import Smallest, ask, check, nothing
from advbench.attacks.minimal.hyperplane import accept
from advbench.attacks.perturbations import L1, L2, Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_MULTIPLIERS = (1e-6, 1e12)
_TINY = 1e-8


@dataclass(frozen=True)
class LeadRatio(Loss):
    """Lead of the class to reach over all others, in units of the spread of the largest logits.

    Untargeted it is that of ``DLR``; the spread is ``z_1 - z_3``, with targets
    ``z_1 - (z_3 + z_4) / 2``, and 1 among two classes. It is positive for a success alone.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the ratio (B,) for ``logits`` (B, K)."""
        lead, classes = Margin()(logits, criterion), logits.shape[1]
        if classes == 2:
            return lead
        last = 3 if criterion.targets is None or classes == 3 else 4
        top = logits.topk(last, dim=1).values
        return lead / (top[:, 0] - top[:, 2:].mean(1) + _TINY)


class Lagrangian(NamedTuple):
    """The iterate, its RMSprop, the multiplier and penalty (B,), and what they are set by.

    ``checked`` is the constraint at the last check; ``found`` (B,) is the step of the first
    success, the number of all steps before it.
    """

    p: Tensor
    square: Tensor
    momentum: Tensor
    multiplier: Tensor
    penalty: Tensor
    checked: Tensor
    found: Tensor
    best: Smallest


def pressure(c: Tensor, penalty: Tensor, multiplier: Tensor) -> Tensor:
    """Return the derivative by ``c`` of the penalty-Lagrangian P2 of the paper, each (B,).

    P2 is ``mu c + mu rho c^2 + rho^2 c^3 / 6`` where the constraint ``c <= 0`` is broken, and
    ``mu c / (1 - rho c)`` where it holds.
    """
    broken = multiplier + 2 * multiplier * penalty * c + (penalty * c).square() / 2
    return torch.where(c >= 0, broken, multiplier / (1 - penalty * c.clamp_max(0)).square())


@final
@dataclass(frozen=True, kw_only=True)
class ALMA(Rule[Lagrangian]):
    """Augmented Lagrangian: RMSprop on the size plus a penalty that grows until the row is fooled.

    Source: Rony, Granger, Pedersoli, Ben Ayed, "Augmented Lagrangian adversarial attacks",
    ICCV 2021, arXiv:2011.11857, algorithm 1, with the settings of the authors' code. The
    constraint is ``tolerance - ratio <= 0``, with the ratio of ``LeadRatio``. Deviations: the step
    size is given, not fitted to a first distance; among two classes, and three with targets, where
    the paper's ratio is undefined, that of ``LeadRatio``; the last ``bisections`` of the steps go
    into making the smallest success smaller, as ``bisection`` describes. Distances L2 and L1. Cost:
    steps + 1 forward and steps - bisections backward passes.

    Fields:
        step_size: of RMSprop, in pixel units; from the first success on it falls by a constant
            factor to ``last_step_size``.
        memory: share that RMSprop, its momentum and the multiplier keep at each step.
        checks: steps between checks of the penalty.
        progress: what a check wants the constraint to fall to, a share of that at the last one.
        growth: factor of the penalty where it has not, until the first success.
        tolerance: the least ratio that counts as fooled.
        bisections: how many of the steps only make the smallest success smaller.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = LeadRatio()

    perturbation: Perturbation = L2()
    steps: int = 1000
    step_size: float = 0.1
    last_step_size: float = 0.001
    memory: float = 0.9
    checks: int = 10
    progress: float = 0.95
    growth: float = 1.2
    tolerance: float = 1e-4
    bisections: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        accept(type(self).__name__, self.perturbation, L2(), L1())
        check(self, self.steps, self.bisections)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=40), cls(perturbation=L1(), steps=40)

    def init(self, problem: Problem) -> Lagrangian:
        """Start at the input."""
        p, one = self.perturbation.zero(problem.x), torch.ones_like(problem.eps)
        never = torch.full_like(problem.t, self.steps)
        return Lagrangian(
            p, torch.ones_like(p), p, one, one, one * torch.inf, never, nothing(problem, p)
        )

    def step(self, state: Lagrangian, query: Query, problem: Problem) -> Lagrangian:
        """Set the penalty and the multiplier, then go down the Lagrangian."""
        moves = self.steps - self.bisections
        probe, best = ask(self.perturbation, state.p, state.best, query, problem, moves)
        c = (self.tolerance - probe.loss).nan_to_num(0)
        first = problem.t == 0
        due = (problem.t + 1) % self.checks == 0
        stuck = due & ~first & (state.found == self.steps) & (c >= self.progress * state.checked)
        penalty = torch.where(stuck, self.growth * state.penalty, state.penalty)
        wanted = pressure(c, penalty, state.multiplier)
        multiplier = self.memory * state.multiplier + (1 - self.memory) * wanted
        multiplier = torch.where(first, state.multiplier, multiplier.clamp(*_MULTIPLIERS))
        found = torch.where(c < 0, problem.t.minimum(state.found), state.found)

        push = lift(pressure(c, penalty, multiplier), state.p) * probe.grad
        g = push - self._outward(state.p)  # nothing at the input, where the size has no slope
        square = self.memory * state.square + (1 - self.memory) * g.square()
        momentum = self.memory * state.momentum + g / (square.sqrt() + _TINY)
        since = (problem.t - found).clamp_min(0) / (moves - found).clamp_min(1)
        fall = (self.last_step_size / self.step_size) ** since.clamp_max(1)
        p = state.p + lift(self.step_size * fall, momentum) * momentum
        return Lagrangian(
            p.clamp(-problem.x, 1 - problem.x),
            square,
            momentum,
            multiplier,
            penalty,
            torch.where(first | due, c, state.checked),
            found,
            best,
        )

    def _outward(self, p: Tensor) -> Tensor:
        """Return the gradient of the size."""
        return unit(p) if isinstance(self.perturbation, L2) else p.sign()
