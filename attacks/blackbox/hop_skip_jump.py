"""HopSkipJump: gradients of the boundary, estimated from labels alone."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.blackbox import edge
from advbench.attacks.blackbox.edge import READY, Edge
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_PROBE, _LEAP = READY, READY + 1
_FIRST_REACH = 0.1
_LEAPS = 25


class Hop(NamedTuple):
    """The edge, the sums that make up an estimate, and how long the probes are.

    ``total`` (B, ...) sums the probes with the sign of their answers, later it is the estimate;
    ``plain`` sums them without, ``votes`` (B,) the signs; ``reach`` (B,) is the size of the change
    before the last halvings, ``rounds`` (B,) counts the estimates, from 1.
    """

    p: Tensor
    edge: Edge
    total: Tensor
    plain: Tensor
    votes: Tensor
    reach: Tensor
    rounds: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Rule[Hop]):
    """Estimate the normal of the boundary from labels nearby, leap along it, halve back.

    Source: Chen, Jordan, Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack",
    IEEE S&P 2020, arXiv:1904.02144, algorithm 2. Round k spends ``probes`` * sqrt(k) labels on the
    estimate, at most ``most_probes``, leaps size / sqrt(k), halved until it succeeds, and halves
    the way back to the sample to ``looseness`` * d^-3/2 of it (Linf: d^-2). Deviations: a round
    whose 25 leaps all fail is given up for a new estimate; the first success is searched among
    noise, chequers and blends, and a row without one in ``tries`` is given up. Every row keeps its
    own rounds. L2 and Linf. Cost: at most ``steps`` forward passes, one a step.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L2()
    steps: int = 25_000
    probes: int = 100
    most_probes: int = 10_000
    looseness: float = 1.0
    tries: int = 1000
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        edge.check("HopSkipJump", self.perturbation, (L2, Linf))
        checks.above_zero("HopSkipJump", "probes", self.probes)
        checks.above_zero("HopSkipJump", "most_probes", self.most_probes)
        checks.above_zero("HopSkipJump", "looseness", self.looseness)
        checks.above_zero("HopSkipJump", "tries", self.tries)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        first = cls(steps=50, probes=5)
        return first, cls(perturbation=Linf(), steps=30, probes=4, tries=9, restarts=2)

    def init(self, problem: Problem) -> Hop:
        """Start with nothing."""
        zero, number = self.perturbation.zero(problem.x), torch.zeros_like(problem.eps)
        start = edge.nowhere(zero, problem)
        rounds = torch.ones_like(problem.t)
        return Hop(zero, start, zero, zero, number, number, rounds, rounds < 0)

    def step(self, state: Hop, query: Query, problem: Problem) -> Hop:
        """Ask the next question of each row's phase."""
        phase, far = state.edge.phase, state.edge.far
        x, probing, leaping = problem.x, phase == _PROBE, phase == _LEAP
        length = torch.where(state.rounds == 1, _FIRST_REACH, self.looseness / x[0].numel())
        length = length.to(x) * torch.where(state.rounds == 1, 1, state.reach)
        p = edge.ask(
            state.edge,
            self.perturbation,
            problem,
            {
                _PROBE: lambda: far + lift(length, x) * self._draw(problem),
                _LEAP: lambda: far + self._leap(state, problem),
            },
        )
        success = query(p).success
        halvings = edge.halvings(self.perturbation, x, self.looseness)
        new = edge.approach(state.edge, self.perturbation, p, success, halvings)

        # What a probe is after the box has clipped it is what its answer is about.
        probe = torch.where(lift(probing, p), (p - far) / lift(length.clamp_min(1e-30), x), 0)
        sign = torch.where(success, 1, -1).to(x)
        total, plain = state.total + lift(sign, x) * probe, state.plain + probe
        votes = state.votes + sign * probing
        enough = probing & (new.turn >= self._wanted(state.rounds))
        if enough.any():
            mean = votes / new.turn.clamp_min(1)
            mean = torch.where(mean.abs() < 1, mean, 0)
            total = torch.where(lift(enough, x), unit(total - lift(mean, x) * plain), total)

        landed = leaping & success
        over = landed | (leaping & (new.turn >= _LEAPS))
        fresh = lift(over, x)
        new = edge.jump_to(edge.jump_to(new, enough, _LEAP), over, _PROBE)
        new = edge.halve_from(new, landed, p)
        begins = landed | ((phase == edge.GUESS) & success)
        return Hop(
            p,
            new,
            torch.where(fresh, 0, total),
            torch.where(fresh, 0, plain),
            torch.where(over, 0, votes),
            torch.where(begins, self.perturbation.size(x, p), state.reach),
            state.rounds + over,
            edge.lost(new, self.tries),
        )

    def _draw(self, problem: Problem) -> Tensor:
        """Draw a direction of Euclidean length 1, from the sphere or, in Linf, from the cube."""
        x = problem.x
        if isinstance(self.perturbation, Linf):
            return unit(problem.draws.uniform(x.shape[1:], x.dtype) * 2 - 1)
        return unit(problem.draws.normal(x.shape[1:], x.dtype))

    def _leap(self, state: Hop, problem: Problem) -> Tensor:
        far = state.edge.far
        length = self.perturbation.size(problem.x, far) / state.rounds.sqrt()
        length = length * 0.5**state.edge.turn
        return self.perturbation.steepest(problem.x, far, state.total, length)

    def _wanted(self, rounds: Tensor) -> Tensor:
        """Return the probes of a round, (B,)."""
        return (self.probes * rounds.sqrt()).floor().clamp_max(self.most_probes)
